"""The flows as deployments of a running Prefect server, and recipes for them."""
