"""Evaluation on held-out data: bootstrap intervals, and metrics for boxes, forecasts and images."""
