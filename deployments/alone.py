"""Becomes a server of the service, once nothing is left of its former instance: `-m deployments.alone MODULE ...`.

A server that was killed may leave a child that still listens, and the next one would find its port taken.
"""

import os
import sys


def main() -> None:
    """End what is left of this program, then run the module that the arguments name in its place."""
    from deployments.processes import end
    from tasks.paths import Workspace
    from tasks.service import PROGRAM_MARK, service_processes

    end(list(service_processes(Workspace.current(), program=os.environ[PROGRAM_MARK])))
    os.execv(sys.executable, [sys.executable, "-P", "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
