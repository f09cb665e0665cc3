"""What a run leaves for people: comparison, published folders, issued forecasts."""
