"""Live scores of issued forecasts, and drift."""
