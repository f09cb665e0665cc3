"""Live scores of issued forecasts, and drift of inputs and errors."""
