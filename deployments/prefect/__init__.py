"""Work pools and deployments on a Prefect server."""
