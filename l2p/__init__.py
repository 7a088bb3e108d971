"""L2P (arXiv 2605.12013): turn a latent diffusion transformer into one that denoises pixels."""
