"""Becomes a server of the service, once nothing is left of its former instance.

A server that was killed may leave a child that still listens, and the next one would find its port taken.
"""

import os
import sys


def main() -> None:
    """End what is left of this program, then run the module that the arguments name in its place."""
    from tickerforge.deployments.service.processes import end
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.base.service import PROGRAM_MARK, service_processes

    end(list(service_processes(Workspace.current(), program=os.environ[PROGRAM_MARK])))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
