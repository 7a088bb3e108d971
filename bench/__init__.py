"""Benchmarks for text-to-image models: any folder of images in, scores with intervals and a passport out."""
