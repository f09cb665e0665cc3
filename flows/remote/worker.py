"""The flow `heavy-stage`, which a worker of `gpu-pool` runs for another run that waits for it."""

from prefect import flow
from prefect.runtime import flow_run

from tickerforge.flows.remote.gpu_pool import ANSWERS
from tickerforge.flows.remote.here import Here
from tickerforge.flows.remote.requests import REFUSALS, StageAnswer, StageRequest
from tickerforge.flows.server.begin import begin
from tickerforge.flows.settings.config import use_devices
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.store.records import write_record


@flow(
    name="heavy-stage",
    flow_run_name="{requests[0].config.stock} {requests[0].stage}",
    persist_result=False,
    on_running=[begin],
)
def heavy_stage(requests: list[StageRequest]) -> None:
    """Run heavy stages; their outputs go to the store, and a record of them to the caller.

    Args:
        requests: Stages with their inputs, as `train-ticker` sends them; several only if they are independent.
    """
    use_devices(requests[0].config)
    try:
        answer = StageAnswer(results=tuple(Here(Store.current()).run(requests)))
    except REFUSALS as error:
        write_record(ANSWERS, str(flow_run.id), StageAnswer(refusal=str(error)))
        raise
    write_record(ANSWERS, str(flow_run.id), answer)
