"""Training a denoiser of images, whatever method made it: batches, the step, the loop, and a state that resumes."""
