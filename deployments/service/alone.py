"""A server start that first ends what its last instance left running, `... service.alone prefect server start`.

A server that was killed may leave a child that still listens, so that the next server would find its port in use.
"""

import os
import sys


def _main() -> None:
    """End what is left of this program, then replace this process by the module that the arguments name."""
    from tickerforge.deployments.service.processes import end
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.base.service import PROGRAM_MARK, service_processes

    end(list(service_processes(Workspace.current(), program=os.environ[PROGRAM_MARK])))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])


if __name__ == "__main__":
    _main()
