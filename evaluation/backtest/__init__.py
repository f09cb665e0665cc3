"""Trading on median forecasts: positions, simulation with costs, performance."""
