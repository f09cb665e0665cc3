"""From raw bars to prompts: validated prices, indicators, windows, splits, model units, and what the model reads."""
