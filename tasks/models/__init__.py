"""Base models, training stages and forecasts as artifacts; adapters and their cards."""
