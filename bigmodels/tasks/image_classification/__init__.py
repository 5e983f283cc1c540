"""Image classification with the CNN (article 2.3 and 4.1)."""
