"""Object detection with an anchor-free CNN (article 2.3)."""
