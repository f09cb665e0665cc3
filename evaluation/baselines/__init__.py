"""Baseline forecasters: simple ones of a window, and rivals for the published protocol."""
