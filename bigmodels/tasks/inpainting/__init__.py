"""Inpainting: filling holes in images with a GAN (article 2.1), after context encoders."""
