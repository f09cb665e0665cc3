"""The commands of the pipeline; `deployments.cli` is the entry point."""
