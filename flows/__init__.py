"""Prefect flows over the tasks, and the command line that calls them."""
