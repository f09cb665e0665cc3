"""MLflow runs; the server may be down at any time."""
