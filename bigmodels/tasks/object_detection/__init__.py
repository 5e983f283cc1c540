"""Object detection: what is where in an image (CNN without anchors; article 2.3)."""
