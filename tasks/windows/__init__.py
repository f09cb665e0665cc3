"""Preprocessing: windows as artifacts, and the published CSV layout."""
