"""The command `tickerforge`, the service on one machine, and the deployments on a Prefect server."""
