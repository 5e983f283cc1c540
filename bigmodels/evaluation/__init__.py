"""Evaluation on held-out data: bootstrap intervals, metrics, and a car that a model steers."""
