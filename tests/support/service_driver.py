"""The command line `tickerforge`, which here deploys a small flow and one of the real ones."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tickerforge.deployments.cli import main


def deploy(*, working_dir: Path, **_: Any) -> list[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.deployments.runner import RunnerDeployment
    from prefect.flows import load_flow_from_entrypoint
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["working_dir"]["default"] = str(working_dir)
    with get_client(sync_client=True) as client:
        for name in ("cpu-pool", "gpu-pool"):
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
            client.create_work_pool(pool, overwrite=True)
    entrypoint = f"{Path(__file__).with_name('sleeper_flow.py')}:sleeper"
    deployment = load_flow_from_entrypoint(entrypoint).to_deployment("test", work_pool_name="cpu-pool")
    deployment.apply()
    RunnerDeployment.from_entrypoint(
        "tickerforge.flows.night.forecast.forecast",
        name="test",
        parameters={"config": {"stock": "DEMO"}},
        work_pool_name="cpu-pool",
    ).apply()
    return ["sleeper/test", "forecast/test"]


if __name__ == "__main__":
    # Set before the module is imported: Prefect must not be imported before the servers have their addresses.
    stand_in = ModuleType("tickerforge.deployments.prefect.deploy")
    stand_in.deploy = deploy  # type: ignore[attr-defined]
    sys.modules[stand_in.__name__] = stand_in
    main()
