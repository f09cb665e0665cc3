"""The shared parts of evaluation: configuration, contracts, errors, labels, panels, forecasts, protocol."""
