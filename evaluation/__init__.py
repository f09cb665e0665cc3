"""Forecasts against truth and against doing nothing: scores, significance, the choice, the gate and the report."""
