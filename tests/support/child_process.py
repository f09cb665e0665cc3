"""Child processes of tests that need what the tests themselves import."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def with_test_modules(*folders: Path) -> dict[str, str]:
    """This environment, in which the tests' own modules and those of `folders` can be imported."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (FOLDER, *folders)))}
