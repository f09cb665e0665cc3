"""The Prefect server of a command, its logs, its slots and its exit codes."""
