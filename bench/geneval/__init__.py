"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): does an image show the objects that its prompt asked for?"""
