"""Image restoration: holes in images filled by a GAN (article 2.1), after context encoders."""
