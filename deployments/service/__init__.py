"""The service on one machine: servers, workers, databases, health."""
