"""The MLflow registry: registration, packaging, promotion and download of adapters."""
