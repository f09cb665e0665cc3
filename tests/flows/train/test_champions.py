"""Where training starts: from the champion where it fits, else from a fresh adapter."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import pytest

from tickerforge.flows.remote.requests import StageOutput, StageRequest
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tickerforge.flows.train import champions
from tickerforge.flows.train.steps import Steps
from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.models.adapters import AdapterCard, BaseModelRef, read_card, write_card
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.training.config import SFTStageConfig, TrainingConfig
from tiny_pipeline import tiny_config

WINDOWS = ArtifactRef(stage="windows", key="k", path=Path("there/windows/k"), sha256="0" * 64)
BASE = BaseModelRef(model="tiny", location="there/base", identity="abc")


@pytest.fixture
def champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """A configuration that starts from the champion, whose card says that it was made with the very same settings."""
    config = with_overrides(tiny_config(), ["warm_start=champion"])
    write_card(
        tmp_path,
        AdapterCard(
            ticker="DEMO",
            stage="sft",
            base_model="tiny",
            base_model_identity=BASE.identity,
            features=config.features,
            training=config.training,
            seed=0,
            windows_sha256="",
            trained_until=date(2015, 3, 2),
            git_revision="",
        ),
    )
    monkeypatch.setattr(champions, "_registered", registry({"DEMO@champion": 3}))
    monkeypatch.setattr(champions, "fetch_adapter", lambda adapter: tmp_path)
    return config


def registry(versions: dict[str, int]) -> Callable[[str, str], RegisteredAdapter | None]:
    """What is registered, by ticker and alias."""

    def registered(stock: str, alias: str) -> RegisteredAdapter | None:
        version = versions.get(f"{stock}@{alias}")
        return RegisteredAdapter(ticker=stock, version=version) if version else None

    return registered


def started(config: PipelineConfig, *, windows: ArtifactRef | None = None) -> RegisteredAdapter | None:
    return champions.warm_start(config, windows=windows or until("2015-03-02"), base_model=BASE)


def until(day: str) -> ArtifactRef:
    return WINDOWS.model_copy(update={"meta": {"train_end": day}})


def test_training_starts_from_the_champion_where_it_fits(champion: PipelineConfig) -> None:
    assert started(champion) == RegisteredAdapter(ticker="DEMO", version=3)
    other = with_overrides(champion, ["training.grpo_1st.steps=9", "seed=4"])
    assert started(other) == RegisteredAdapter(ticker="DEMO", version=3)


@pytest.mark.parametrize("start", [None, RegisteredAdapter(ticker="ALL", version=2)])
def test_the_first_stage_and_the_fine_tuning_start_there_and_the_third_stage_goes_on_from_the_second(
    start: RegisteredAdapter | None, tmp_path: Path
) -> None:
    asked: dict[str, StageRequest] = {}

    class Asked:
        """Notes what is asked for."""

        def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
            asked.update({request.stage: request for request in requests})
            return [WINDOWS.model_copy(update={"stage": request.stage}) for request in requests]

    steps = Steps(tiny_config(), Store(tmp_path), heavy=Asked())
    made = steps.trained(WINDOWS, BASE, start=start)
    assert {stage: request.adapter for stage, request in asked.items()} == {
        "grpo_1st": start,
        "sft_data": made["grpo_1st"],
        "sft": start,
        "grpo_2nd": made["sft"],
    }


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("start", [None, RegisteredAdapter(ticker="DEMO", version=2)])
def test_training_starts_from_the_primed_base_model_unless_it_needs_none_or_starts_warm(
    needed: bool, start: RegisteredAdapter | None, tmp_path: Path
) -> None:
    asked: list[StageRequest] = []
    told: list[str] = []

    class Asked:
        """Notes what is asked for."""

        def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
            asked.extend(requests)
            meta = {"primed": needed, "valid_before": 0.0, "valid_after": 0.97, "crps": 1.01}
            return [WINDOWS.model_copy(update={"stage": request.stage, "meta": meta}) for request in requests]

    config = with_overrides(tiny_config(), ["training.prime.min_valid_rate=0.9", "training.model=org/large"])
    steps = Steps(config, Store(tmp_path), heavy=Asked())
    steps.trained(WINDOWS, BASE, start=start, on_stage=lambda stage, artifact: told.append(stage))
    begins = {request.stage: request.adapter for request in asked if request.stage in ("grpo_1st", "sft")}
    primed = needed and start is None
    for adapter in begins.values():
        assert (getattr(adapter, "stage", None) == "prime") if primed else adapter == start
    assert told == [*(["prime"] if primed else []), "grpo_1st", "sft_data", "sft", "grpo_2nd"]
    asked.clear()
    steps.forecasts_of_all(WINDOWS, BASE, {"sft": WINDOWS})
    of_base = next(request for request in asked if request.model == "base")
    assert (getattr(of_base.adapter, "stage", None) == "prime") is needed
    card = steps.card("sft", windows=until("2018-01-01"), base_model=BASE)
    assert (card.prime.summary if card.prime else "") == (
        "valid 0 % → 97 %, CRPS against the free random walk 1.01" if needed else ""
    )
    assert card.features.answer_style == "numbered"


def test_an_adapter_with_another_style_of_answers_is_passed_over(
    champion: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert started(with_overrides(champion, ["features.answer_style=list"])) is not None
    assert started(with_overrides(champion, ["features.answer_style=numbered"])) is None
    assert "style of answers" in caplog.text


def test_training_from_an_adapter_takes_smaller_steps_unless_the_rate_is_given() -> None:
    tiny, large = TrainingConfig(), TrainingConfig(model="org/large")
    assert tiny.learning_rate("grpo_1st", warm=True) < tiny.learning_rate("grpo_1st")
    assert tiny.learning_rate("sft", warm=True) < tiny.learning_rate("sft")
    assert tiny.learning_rate("grpo_2nd", warm=True) == tiny.learning_rate("grpo_2nd")
    assert large.learning_rate("sft", warm=True) == large.learning_rate("sft")
    given = TrainingConfig(sft=SFTStageConfig(learning_rate=0.5))
    assert given.learning_rate("sft", warm=True) == 0.5


def test_a_champion_that_was_trained_on_what_is_validation_or_test_now_is_passed_over(
    champion: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert started(champion, windows=until("2015-03-01")) is None
    assert "end of training" in caplog.text
    assert started(champion, windows=WINDOWS) is None


def test_the_same_windows_again_start_where_the_champion_that_came_of_them_started(
    champion: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = until("2015-03-02").model_copy(update={"sha256": ""})
    monkeypatch.setattr(champions, "_champion_before", lambda current: None)
    assert started(champion, windows=windows) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("training.lora_rank=8", "LoRA rank"),
        ("features.context=5", "kind of windows"),
        ("features.prompt_style=full", "kind of prompts"),
    ],
)
def test_a_champion_that_does_not_fit_is_passed_over_and_the_log_says_why(
    champion: PipelineConfig, caplog: pytest.LogCaptureFixture, change: str, told: str
) -> None:
    caplog.set_level("INFO")
    assert started(with_overrides(champion, [change])) is None
    assert f"has another {told}" in caplog.text
    other = BASE.model_copy(update={"identity": "other"})
    assert champions.warm_start(champion, windows=until("2015-03-02"), base_model=other) is None
    assert "has another base model" in caplog.text


def test_training_starts_afresh_where_that_is_asked_for_or_there_is_no_champion_or_no_registry(
    champion: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(with_overrides(champion, ["warm_start=none"])) is None
    monkeypatch.setattr(champions, "_registered", registry({}))
    assert started(champion) is None

    def away(stock: str, alias: str) -> None:
        raise TrackingError("MLflow does not answer")

    monkeypatch.setattr(champions, "_registered", away)
    assert started(champion) is None


EVERYTHING = {"DEMO@champion": 3, "ALL@champion": 5, "ALL@challenger": 6}


@pytest.mark.parametrize(
    ("asked", "there", "start"),
    [
        ("champion", EVERYTHING, "DEMO@3"),
        ("champion", {"ALL@champion": 5, "ALL@challenger": 6}, "ALL@5"),
        ("champion", {"ALL@challenger": 6}, "ALL@6"),
        ("pooled", EVERYTHING, "ALL@5"),
        ("pooled", {"DEMO@champion": 3}, None),
        ("none", EVERYTHING, None),
    ],
)
def test_where_there_is_no_champion_training_starts_from_the_pooled_adapter(
    champion: PipelineConfig, monkeypatch: pytest.MonkeyPatch, asked: str, there: dict[str, int], start: str | None
) -> None:
    monkeypatch.setattr(champions, "_registered", registry(there))
    config = with_overrides(champion, [f"warm_start={asked}"])
    found = started(config)
    assert (str(found) if found else None) == start


def test_a_champion_that_does_not_fit_gives_way_to_the_pooled_adapter(
    champion: PipelineConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    other = tmp_path / "other"
    other.mkdir()
    card = read_card(tmp_path)
    write_card(other, card.model_copy(update={"training": card.training.model_copy(update={"lora_rank": 16})}))
    monkeypatch.setattr(champions, "_registered", registry(EVERYTHING))
    monkeypatch.setattr(champions, "fetch_adapter", lambda adapter: tmp_path if adapter.is_pooled else other)
    assert started(champion) == RegisteredAdapter(ticker="ALL", version=5)
    assert "DEMO@3, which has another LoRA rank" in caplog.text


def test_a_pool_starts_from_its_champion_or_afresh(champion: PipelineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = champion.model_copy(update={"stock": "ALL"})
    monkeypatch.setattr(champions, "_registered", registry(EVERYTHING))
    assert started(pool) == RegisteredAdapter(ticker="ALL", version=5)
    monkeypatch.setattr(champions, "_registered", registry({"ALL@challenger": 6}))
    assert started(pool) is None
