"""Commands that obey the rights of files, also if the tests run as root."""

import os
import shutil

import pytest


def obeying_rights() -> list[str]:
    """Return the beginning of a command line whose command may do only what the rights of files allow."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores the rights of files, and setpriv is not installed")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
