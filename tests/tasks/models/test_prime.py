"""Priming, with a tiny model that writes too few valid answers."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import render_answer
from tickerforge.tasks.models.adapters import adapter_identity
from tickerforge.tasks.models.base_models import prepare_base_model
from tickerforge.tasks.models.prime import prime_base_model, prime_record
from tickerforge.tasks.store.artifacts import ArtifactRef, Store, read_manifest
from tickerforge.training import prime
from tickerforge.training.config import PrimeConfig, TrainingConfig
from trained_pieces import FEATURES, TRAINING, shared_store

PRIME = PrimeConfig(prompts=6, answers=4, examples=64, learning_rate=0.01)
# A base model of so few steps does not know the format.
CONFIG = TRAINING.model_copy(update={"prime": PRIME, "tiny": TRAINING.tiny.model_copy(update={"steps": 12})})


def primed(store: Store, config: TrainingConfig = CONFIG, **changes: object) -> ArtifactRef:
    base = prepare_base_model.fn(config, features=FEATURES, store=shared_store())
    return prime_base_model.fn(base, config=config, features=FEATURES.model_copy(update=changes), store=store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    return primed(Store(tmp_path_factory.mktemp("store")))


def changed(**settings: object) -> TrainingConfig:
    return CONFIG.model_copy(update={"prime": PRIME.model_copy(update=settings)})


def answering(monkeypatch: pytest.MonkeyPatch, answers: Callable[..., list[list[str]]]) -> None:
    """Let answers come from a function instead of a model."""
    monkeypatch.setattr(prime, "sampler_for", lambda *_, **__: SimpleNamespace(generate=answers))


def test_priming_is_measured_and_leaves_an_adapter(made: ArtifactRef) -> None:
    record = prime_record(made)
    assert record is not None
    assert 0 <= record.valid_before < 1
    assert record.summary.startswith(f"valid {100 * record.valid_before:.0f} % → {100 * record.valid_after:.0f} %")
    assert adapter_identity(made)
    losses = [json.loads(line)["loss"] for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == made.meta["steps"] == 8
    assert losses[-1] < losses[0]
    assert not {path.name for path in made.path.iterdir()} & {"notes.json", "examples.parquet"}


def test_it_is_made_once_per_base_model_format_and_rank_and_not_per_ticker(made: ArtifactRef) -> None:
    store = Store(made.path.parents[1])
    split = {"train_fraction": 0.6, "test_fraction": 0.3}
    other = CONFIG.model_copy(update={"reward": CONFIG.reward.model_copy(update={"clip": 2.0}), "backend": "auto"})
    for same in (primed(store), primed(store, **split), primed(store, other)):
        assert same.cached
        assert same.key == made.key
    short = changed(examples=8)
    keys = {
        primed(store, short).key,
        primed(store, short, answer_style="numbered").key,
        primed(store, short.model_copy(update={"lora_rank": 2})).key,
    }
    assert len(keys) == 3


def test_a_base_model_that_writes_valid_answers_needs_no_adapter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ref = primed(Store(tmp_path), CONFIG.model_copy(update={"tiny": TRAINING.tiny}))
    assert ref.meta["primed"] is False
    assert prime_record(ref) is None
    assert not (ref.path / "adapter").exists()
    assert "it needs no priming" in caplog.text


@pytest.mark.nightly
def test_a_priming_that_is_interrupted_anywhere_ends_with_the_same_bytes(
    made: ArtifactRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reported = Store(tmp_path), []

    class Killed(BaseException):
        pass

    from tickerforge.tasks.models import prime as task

    ours = task.progress_reporter

    def until(stage: str, step: int):
        from contextlib import contextmanager

        @contextmanager
        def reporter():
            with ours() as report:

                def stop(event) -> None:
                    report(event)
                    reported.append((event.stage, event.step))
                    if (event.stage, event.step) == (stage, step):
                        raise Killed

                yield stop

        return reporter

    # In training between two checkpoints, and while the primed model is asked.
    for place in (("prime", 5), ("prime, probe", 6)):
        monkeypatch.setattr(task, "progress_reporter", until(*place))
        with pytest.raises(Killed):
            primed(store)
    monkeypatch.setattr(task, "progress_reporter", ours)
    again = primed(store)
    assert [step for stage, step in reported if stage == "prime"].count(5) <= 2
    weights = "adapter/adapter_model.safetensors"
    assert read_manifest(again).files[weights] == read_manifest(made).files[weights]
    assert {k: v for k, v in again.meta.items() if k != "seconds"} == {
        k: v for k, v in made.meta.items() if k != "seconds"
    }


def test_the_windows_hold_a_random_walk_of_the_right_spread_and_none_is_both_asked_and_learned() -> None:
    windows = prime.priming_windows(TRAINING, features=FeatureConfig())
    asked, learned = ({each.window_id for each in part} for part in (windows.asked, windows.learned))
    assert (len(asked), len(learned)) == (32, 256)
    assert not asked & learned
    # Ten units are one daily standard deviation: after h sessions a random walk has 10 √h.
    spread = np.diff(np.quantile(windows.walk, [0.25, 0.75], axis=0), axis=0)[0] / 1.349
    np.testing.assert_allclose(spread / np.sqrt(np.arange(1, 11)), 9.5, rtol=0.15)
    assert abs(np.median(windows.walk)) < 3


def test_the_crps_of_draws_of_the_walk_is_one_and_grows_with_bias_and_false_confidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows = prime.priming_windows(TRAINING, features=FeatureConfig())
    rng = np.random.default_rng(0)

    def draws(scale: float, shift: float) -> float:
        def answers(prompts, job) -> list[list[str]]:
            rows = rng.integers(len(windows.walk), size=(len(prompts), job.answers))
            values = np.rint(scale * windows.walk[rows] + shift).astype(int).tolist()
            return [[render_answer(each) for each in group] for group in values]

        answering(monkeypatch, answers)
        config = TRAINING.model_copy(update={"prime": PrimeConfig(answers=32)})
        found = prime.probe(windows, base_model="", adapter=None, config=config)
        assert found.valid == found.drawn == 32 * 32
        return found.crps

    assert draws(1.0, 0.0) == pytest.approx(1.0, abs=0.05)
    assert draws(0.1, 0.0) > 1.2
    assert draws(1.0, 20.0) > 1.2


def test_a_hopeless_probe_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = prime.priming_windows(TRAINING, features=FeatureConfig())
    answering(monkeypatch, lambda prompts, job: [["I cannot say."] * job.answers for _ in prompts])
    found = prime.probe(windows, base_model="", adapter=None, config=TRAINING, at_least=0.95)
    assert (found.drawn, found.valid) == (16, 0)
    assert np.isnan(found.crps)
