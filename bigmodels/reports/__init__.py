"""Figures, HTML reports, and comparisons of runs."""
