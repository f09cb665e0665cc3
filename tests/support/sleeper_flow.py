"""A flow that only records what happens to it."""

import os
import time
from pathlib import Path

from prefect import flow


@flow
def sleeper(secret: str) -> None:
    """Record in the working folder its process and whether the environment holds the secret; sleep until stopped."""
    known = "yes" if any(secret in value for value in os.environ.values()) else "no"
    Path("sleeper.started").write_text(f"pid {os.getpid()}, knows the secret: {known}")
    try:
        time.sleep(300)
    except BaseException as error:
        Path("sleeper.stopped").write_text(type(error).__name__)
        raise
