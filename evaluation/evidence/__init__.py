"""Significance tests and confidence intervals for overlapping windows."""
