"""Scores of point forecasts and of distributions."""
