"""Image generation with the GAN (article 2.1 and 4.4)."""
