"""MLflow runs, written so that the server may be down at any time."""
