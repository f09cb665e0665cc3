"""What all tasks share: paths, disk, errors, retries, logs, progress, environment."""
