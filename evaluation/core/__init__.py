"""What all of evaluation shares: configuration, contracts, errors, labels, panels and forecasts."""
