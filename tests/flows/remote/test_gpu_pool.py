"""Heavy stages as flow runs of their own: what travels, what comes back, and who may run now."""

import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from service_home import wait_until
from tickerforge.flows.errors import ConfigError, StageFailed, StageRefused
from tickerforge.flows.night.batches import BatchAnswer, TickerJob, TickerStages
from tickerforge.flows.remote import gpu_pool
from tickerforge.flows.remote.gpu_pool import Call, GpuPool, call_all
from tickerforge.flows.remote.here import Finished, Here, Recording
from tickerforge.flows.remote.requests import StageAnswer, StageOutput, StageRequest, content_digest
from tickerforge.flows.remote.worker import heavy_stage
from tickerforge.flows.server import slots
from tickerforge.flows.server.slots import GPU_LIMIT, gpu_slot, ticker_limit, ticker_slot
from tickerforge.flows.settings.config import with_overrides
from tickerforge.tasks.base.errors import StoreUnreachable
from tickerforge.tasks.models.adapters import BaseModelRef
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.store.records import write_record
from tickerforge.tasks.store.shared_store import SharedStore
from tiny_pipeline import tiny_config

AAPL_7 = RegisteredAdapter(ticker="AAPL", version=7)
WINDOWS = ArtifactRef(stage="windows", key="k", path=Path("there/windows/k"), sha256="0" * 64, meta={"rows": 3})
BASE = BaseModelRef(model="tiny", location="there/base", identity="abc", artifact=WINDOWS)


@pytest.mark.parametrize(
    "document",
    [
        StageRequest(stage="base_model", config=tiny_config()),
        StageRequest(stage="grpo_1st", config=tiny_config(), windows=WINDOWS, base_model=BASE, adapter=WINDOWS),
        StageRequest(stage="forecasts", config=tiny_config(), adapter=AAPL_7, model="base"),
        StageRequest(stage="sft", config=tiny_config(), adapter=Path("here"), answers=Path("answers.csv")),
        StageAnswer(results=(WINDOWS, BASE)),
        StageAnswer(refusal="no"),
        TickerJob(config=tiny_config(), windows=WINDOWS, champion=RegisteredAdapter(ticker="BRK.B", version=12)),
        BatchAnswer(tickers=(TickerStages(stock="AAPL", results={"sft": WINDOWS, "base_model": BASE}, error="no"),)),
    ],
    ids=lambda document: type(document).__name__,
)
def test_what_travels_between_machines_survives_json(document: BaseModel) -> None:
    assert type(document).model_validate_json(document.model_dump_json()) == document


class Echo:
    """Answers each request with an artifact of its name; counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, requests: Any) -> list[StageOutput]:
        if requests[0].stage == "sft":
            raise StageFailed("sft has failed")
        self.asked += [request.name for request in requests]
        return [ArtifactRef(stage=each.stage, key=each.name, path=Path(), sha256="") for each in requests]


def forecasts_of(*models: str) -> list[StageRequest]:
    return [StageRequest(stage="forecasts", config=tiny_config(), model=model) for model in models]


def test_what_was_recorded_is_handed_out_later_and_what_is_missing_fails_with_the_reason() -> None:
    results: dict[str, StageOutput] = {}
    recording = Recording(Echo(), results)
    made = recording.run(forecasts_of("base", "sft"))
    with pytest.raises(StageFailed, match="sft has failed"):
        recording.run([StageRequest(stage="sft", config=tiny_config())])
    assert [key.rpartition(" ")[0] for key in results] == ["forecasts base", "forecasts sft"]
    assert Finished(results).run(forecasts_of("sft", "base")) == made[::-1]
    with pytest.raises(StageFailed, match="sft has failed"):
        Finished(results, "sft has failed").run([StageRequest(stage="sft", config=tiny_config())])
    with pytest.raises(StageRefused, match="forecasts champion of DEMO was not made"):
        Finished(results).run(forecasts_of("champion"))


def test_what_was_made_from_other_inputs_is_not_handed_out_and_where_they_lie_does_not_matter() -> None:
    results: dict[str, StageOutput] = {}
    request = StageRequest(stage="grpo_1st", config=tiny_config(), windows=WINDOWS, base_model=BASE)
    made = Recording(Echo(), results).run([request])
    moved = WINDOWS.model_copy(update={"path": Path("here/windows/k"), "cached": True})
    base = BASE.model_copy(update={"location": "here/base", "artifact": moved, "cached": False})
    assert Finished(results).run([request.model_copy(update={"windows": moved, "base_model": base})]) == made
    other = WINDOWS.model_copy(update={"sha256": "1" * 64})
    with pytest.raises(StageRefused, match="from these inputs"):
        Finished(results).run([request.model_copy(update={"windows": other})])


@pytest.fixture
def client(prefect_server: None, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server that other processes could share too."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setattr(gpu_pool, "_POLL_SECONDS", 0.05)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, 1)
        yield client


@contextmanager
def worker(client: Any, deployed: Any, *, name: str = "internal", crashes: int = 0) -> Iterator[list[str]]:
    """Runs what is asked for in a thread, as a worker does in processes; the first `crashes` runs die with it."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.flow_engine import run_flow
    from prefect.states import Crashed, Pending

    deployment = deployed.to_deployment(name).apply()
    stop, names = threading.Event(), list[str]()

    def work() -> None:
        while not stop.wait(0.05):
            waiting = FlowRunFilter.model_validate(
                {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
            )
            for run in client.read_flow_runs(flow_run_filter=waiting):
                names.append(run.name)
                if len(names) <= crashes:
                    client.set_flow_run_state(run.id, Crashed(message="the worker is gone"), force=True)
                    continue
                client.set_flow_run_state(run.id, Pending(), force=True)
                run = client.read_flow_run(run.id)
                run_flow(
                    deployed,
                    flow_run=run,
                    parameters=deployed.validate_parameters(run.parameters),
                    return_type="state",
                )

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    try:
        yield names
    finally:
        stop.set()
        thread.join()


def asked(*requests: StageRequest) -> list[StageOutput]:
    from prefect import flow

    @flow
    def asks() -> list[StageOutput]:
        return GpuPool(Store.current()).run(requests)

    return asks()


def test_a_refusal_comes_back_as_one_with_its_reason(client: Any, tmp_path: Path) -> None:
    request = StageRequest(stage="sft", config=tiny_config(), adapter=tmp_path)
    with (
        worker(client, heavy_stage) as names,
        pytest.raises(StageRefused, match=r"sft of DEMO was refused.*no tickerf"),
    ):
        asked(request)
    assert names == ["sft of DEMO"]


def test_a_failure_there_fails_here_with_its_message_and_is_not_repeated(client: Any) -> None:
    request = StageRequest(stage="grpo_1st", config=tiny_config(), windows=WINDOWS)
    with worker(client, heavy_stage) as names, pytest.raises(StageFailed, match="needs a base model") as failure:
        asked(request)
    assert not isinstance(failure.value, StageRefused)
    assert len(names) == 1


def test_a_finished_stage_comes_from_the_store_and_starts_no_run_on_the_pool(client: Any) -> None:
    request = StageRequest(stage="base_model", config=tiny_config())
    with worker(client, heavy_stage) as names:
        (made,) = asked(request)
        # The pool looks itself for what the caller cannot find.
        other = request.model_copy(update={"config": with_overrides(tiny_config(), ["training.tiny.steps=61"])})
        asked(request, other)
        assert names == ["base_model of DEMO"] * 2
    found, _ = asked(request, other)
    assert isinstance(made, BaseModelRef)
    assert isinstance(found, BaseModelRef)
    assert (found.location, found.identity) == (made.location, made.identity)


def test_what_this_machine_cannot_look_up_is_asked_of_the_pool(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **options: object) -> None:
        raise StoreUnreachable("the shared store does not answer")

    config = tiny_config()
    (tmp_path / "shared").mkdir()
    store = Store(tmp_path / "store", SharedStore(str(tmp_path / "shared")))
    monkeypatch.setattr(SharedStore, "fetch", away)
    training = config.training
    requests = {
        "the store does not answer": StageRequest(stage="base_model", config=config),
        "another base model": StageRequest(
            stage="base_model",
            config=config.model_copy(update={"training": training.model_copy(update={"model": "org/name"})}),
        ),
        "no base model": StageRequest(stage="forecasts", config=config, windows=WINDOWS, adapter=AAPL_7),
        "refused here": StageRequest(
            stage="sft",
            config=config,
            base_model=BASE.model_copy(update={"artifact": None}),
            adapter=tmp_path,
            answers=tmp_path / "answers.csv",
        ),
    }
    (tmp_path / "answers.csv").touch()
    found = {why: GpuPool(store)._finished([request]) for why, request in requests.items()}
    assert found == dict.fromkeys(requests)


def test_a_caller_that_is_retried_asks_for_the_same_thing_though_its_artifacts_are_cached_or_elsewhere_by_now() -> None:
    first = StageRequest(stage="grpo_1st", config=tiny_config(), windows=WINDOWS, base_model=BASE)
    windows = WINDOWS.model_copy(update={"path": Path("elsewhere"), "cached": True})
    base_model = BASE.model_copy(update={"artifact": windows, "location": "elsewhere/base", "cached": False})
    again = first.model_copy(update={"windows": windows, "base_model": base_model})
    other = first.model_copy(update={"windows": WINDOWS.model_copy(update={"sha256": "1" * 64})})
    digests = [content_digest({"requests": [each.model_dump(mode="json")]}) for each in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


class Note(BaseModel):
    text: str


def notes() -> Any:
    from prefect import flow
    from prefect.runtime import flow_run

    @flow(name="notes")
    def notes(text: str) -> None:
        write_record(gpu_pool.ANSWERS, str(flow_run.id), Note(text=text))

    return notes


def ask(text: str) -> Note:
    (found,) = call_all([Call("notes/internal", {"text": text}, "a note")], answer=Note)
    if isinstance(found, StageFailed):
        raise found
    return found


def call(text: str) -> Note | StageFailed:
    from prefect import flow

    @flow
    def calls() -> list[Note]:
        return [ask(text) for _ in range(2)]

    first, second = calls()
    assert first == second
    return first


def test_deployments_of_another_version_are_named_with_what_to_do(client: Any) -> None:
    from prefect import flow

    @flow
    def calls(name: str) -> None:
        call_all([Call(name, {"texts": "hello"}, "a note")], answer=Note)

    with pytest.raises(ConfigError, match=r"notes/former is not there: .*Run `tickerforge deploy`"):
        calls("notes/former")
    notes().to_deployment("other").apply()
    with pytest.raises(ConfigError, match=r"notes/other does not take the parameters of this one: .*`tickerforge up`"):
        calls("notes/other")


def test_runs_that_have_started_are_cancelled_if_the_server_refuses_another(client: Any) -> None:
    from prefect import flow

    deployment = notes().to_deployment("internal").apply()
    ours = [Call("notes/internal", {"text": "unheard"}, "a note"), Call("notes/former", {"text": "unheard"}, "a note")]

    @flow
    def calls() -> None:
        call_all(ours, answer=Note)

    try:
        with pytest.raises(ConfigError, match="notes/former is not there"):
            calls()
        assert ours[0].run_id is not None
        state = client.read_flow_run(ours[0].run_id).state
        assert state.is_cancelling() or state.is_cancelled()
    finally:
        client.delete_deployment(deployment)


def test_a_run_that_crashed_with_its_worker_is_started_again_and_the_same_question_is_asked_once(client: Any) -> None:
    with worker(client, notes(), crashes=2) as names:
        assert call("hello") == Note(text="hello")
    assert len(names) == 3


def test_a_run_that_crashes_every_time_fails(client: Any) -> None:
    from prefect import flow

    @flow
    def asks() -> Note | StageFailed:
        return call_all([Call("notes/internal", {"text": "hello"}, "a note")], answer=Note)[0]

    with worker(client, notes(), crashes=3) as names:
        failed = asks()
    assert isinstance(failed, StageFailed)
    assert "Crashed" in str(failed)
    assert "the worker is gone" in str(failed)
    assert len(names) == 3


def test_a_retried_caller_starts_anew_what_had_failed_before(client: Any) -> None:
    from prefect import flow

    @flow
    def asks() -> list[Note | StageFailed]:
        once = call_all([Call("notes/internal", {"text": "hello"}, "a note")], answer=Note)
        return once + call_all([Call("notes/internal", {"text": "hello"}, "a note")], answer=Note)

    with worker(client, notes(), crashes=3) as names:
        failed, made = asks()
    assert isinstance(failed, StageFailed)
    assert made == Note(text="hello")
    assert len(names) == 4


def test_several_deployments_are_called_side_by_side_and_answered_in_their_order(client: Any) -> None:
    from prefect import flow

    texts = ["one", "two", "three"]

    @flow
    def asks() -> list[Note | StageFailed]:
        return call_all([Call("notes/internal", {"text": text}, text) for text in texts], answer=Note)

    with worker(client, notes()) as names:
        assert asks() == [Note(text=text) for text in texts]
    assert sorted(names) == sorted(texts)


def taken(client: Any, name: str) -> int:
    return client.read_global_concurrency_limit_by_name(name).active_slots


def test_a_ticker_has_one_slot_which_the_next_waits_for_and_gets_and_says_so(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect import flow
    from prefect.states import Running

    monkeypatch.setattr(slots, "MOMENT_SECONDS", 0.5)
    monkeypatch.setattr(slots, "REPORT_SECONDS", 1)
    train_ticker = flow(name="train-ticker")(lambda: None)
    run, other = (client.create_flow_run(train_ticker, name=name, state=Running()) for name in ("BRK.B", "AAPL"))
    order: list[str] = []

    def second() -> None:
        with ticker_slot("BRK.B"):
            order.append("second")

    other_run = contextvars.copy_context()
    with caplog.at_level("INFO", logger="tickerforge"), ThreadPoolExecutor() as pool:
        with ticker_slot("BRK.B"):
            assert taken(client, ticker_limit("BRK.B")) == 1
            with ticker_slot("AAPL"):
                waiting: Future[None] = pool.submit(other_run.run, second)
                assert wait_until(lambda: caplog.text.count("waiting for") >= 2)
            order.append("first")
        waiting.result(60)
    assert order == ["first", "second"]
    assert taken(client, ticker_limit("BRK.B")) == 0
    told = f"waiting for the other run of BRK.B: BRK.B ({run.id})"
    # Prefect offers the slot some seconds after it is free; until then there may be more lines.
    assert {record.getMessage() for record in caplog.records if "waiting" in record.getMessage()} == {told}
    for each in (run, other):
        client.delete_flow_run(each.id)


def test_a_slot_that_is_held_is_not_waited_for_again_within(client: Any) -> None:
    with gpu_slot():
        with gpu_slot():
            assert taken(client, GPU_LIMIT) == 1
        assert taken(client, GPU_LIMIT) == 1
    assert taken(client, GPU_LIMIT) == 0


def test_a_run_that_waits_for_a_gpu_names_the_heavy_runs_at_work_and_not_itself(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect import flow
    from prefect.states import Running

    monkeypatch.setattr(slots, "MOMENT_SECONDS", 0.5)
    night, train = (flow(name=name)(lambda heavy_stages: None) for name in ("nightly", "train-ticker"))
    here = client.create_flow_run(night, name="the night", parameters={"heavy_stages": "here"}, state=Running())
    there = client.create_flow_run(train, parameters={"heavy_stages": "gpu-pool"}, state=Running())

    @flow(name="heavy-stage")
    def waits() -> None:
        with gpu_slot():
            pass

    elsewhere = contextvars.copy_context()
    with caplog.at_level("INFO", logger="tickerforge"), ThreadPoolExecutor() as pool:
        with gpu_slot():
            waiting: Future[None] = pool.submit(elsewhere.run, waits)
            assert wait_until(lambda: "waiting for a GPU" in caplog.text)
        waiting.result(60)
    (told,) = [record.getMessage() for record in caplog.records if "waiting for a GPU" in record.getMessage()]
    assert told.endswith(f"at work: the night ({here.id})")
    for each in (here, there):
        client.delete_flow_run(each.id)


def test_the_gpus_slot_is_free_after_a_failure_and_a_server_without_the_limit_gets_one(client: Any) -> None:
    def fails() -> None:
        with gpu_slot():
            assert taken(client, GPU_LIMIT) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert taken(client, GPU_LIMIT) == 0
    client.delete_global_concurrency_limit_by_name(GPU_LIMIT)
    with gpu_slot():
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 1
        assert taken(client, GPU_LIMIT) == 1


def test_a_look_into_a_store_that_does_not_answer_is_an_error_and_not_an_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **options: object) -> None:
        raise StoreUnreachable("the shared store does not answer")

    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(SharedStore, "fetch", away)
    here = Here(Store(tmp_path / "store", SharedStore(str(tmp_path / "shared"))))
    with pytest.raises(StoreUnreachable):
        here.find(StageRequest(stage="base_model", config=tiny_config()))
