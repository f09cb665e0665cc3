"""SmolLM2 through priming and every stage, with as few steps and answers as possible; its first run fetches 92 MB."""

import json
from pathlib import Path

import pytest

from tickerforge.features.tables import read_frame
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tickerforge.tasks.models.adapters import BaseModelRef, PrimeRecord
from tickerforge.tasks.models.base_models import prepare_base_model
from tickerforge.tasks.models.prime import prime_base_model, prime_record
from tickerforge.tasks.models.train import sample_answers, train_grpo, train_sft
from tickerforge.tasks.outputs.evaluate import forecast_model
from tickerforge.tasks.prices.market_data import SyntheticSource, fetch_bars
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import store_windows
from tickerforge.training.backends import release_models, why_not
from tickerforge.training.credit import tokens_of_values
from trained_pieces import shared_store

SETTINGS = {
    "training.model": "smollm2",
    "features.prompt_style": "prices",
    "synthetic.sessions": 400,
    "training.lora_rank": 8,
    "training.micro_batch_size": 4,
    "training.prime.examples": 8,
    "training.prime.batch_size": 4,
    "training.prime.prompts": 1,
    "training.prime.answers": 2,
    "training.guard.min_valid_rate": 0.0,
    "training.sampling.max_tokens": 128,
    "training.sampling.samples": 2,
    "training.sampling.constrained": "true",
    "training.grpo_1st.steps": 1,
    "training.grpo_1st.prompts_per_step": 1,
    "training.grpo_1st.group_size": 2,
    "training.rejection.answers": 2,
    "training.rejection.max_windows": 2,
    "training.sft.epochs": 1.0,
    "training.sft.batch_size": 2,
    "evaluation.max_windows": 2,
}
CONFIG = with_overrides(PipelineConfig(stock="DEMO"), [f"{key}={value}" for key, value in SETTINGS.items()])
FEATURES = CONFIG.prompts


@pytest.fixture(scope="module")
def base() -> BaseModelRef:
    return prepare_base_model.fn(CONFIG.training, features=FEATURES, store=shared_store())


def losses(ref: ArtifactRef) -> list[float]:
    return [json.loads(line)["loss"] for line in (ref.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.nightly
def test_its_tokens_of_a_value_are_its_sign_its_digits_and_its_end(base: BaseModelRef) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.location)
    text = "<think></think><answer>1:-9 2:12 3:300</answer>"
    pieces = tokenizer.batch_decode([[each] for each in tokenizer(text)["input_ids"]])
    assert "".join(pieces) == text
    owned = ["".join(pieces[token] for token in tokens) for tokens in tokens_of_values(pieces, horizon=3)]
    assert owned == [":-9 ", ":12 ", ":300</"]


@pytest.mark.nightly
def test_it_goes_through_priming_and_every_stage(base: BaseModelRef, tmp_path: Path) -> None:
    store, training = Store(tmp_path), CONFIG.training
    bars = fetch_bars.fn(SyntheticSource(config=CONFIG.synthetic), "DEMO", store=store)
    windows = store_windows.fn(bars, config=FEATURES, store=store)

    primed = prime_base_model.fn(base, config=training, features=FEATURES, store=store)
    record = prime_record(primed)
    assert isinstance(record, PrimeRecord)
    assert record.valid_before == 0.0
    assert losses(primed)[-1] < losses(primed)[0]

    common = {"config": training, "seed": 0, "store": store}
    asked = {"features": FEATURES, **common}
    first = train_grpo.fn(windows, base, stage="grpo_1st", adapter=primed, **asked)
    accepted = sample_answers.fn(windows, base, adapter=first, **asked)
    assert accepted.meta["accepted"] == 2
    answers = read_frame(accepted.path / "sft_data.parquet")["answer"]
    assert answers.str.fullmatch(r"<think>[^<]*</think><answer>1:-?\d+ 2:.* 10:-?\d+</answer>").all()
    tuned = train_sft.fn(accepted, base, adapter=primed, **common)
    assert losses(tuned)
    forecasts = forecast_model.fn(windows, base, model="sft", adapter=tuned, evaluation=CONFIG.evaluation, **asked)
    found = read_frame(forecasts.path / "forecasts.parquet")
    assert (found["n_valid"] == 2).all()


@pytest.mark.gpu
@pytest.mark.skipif(
    why_not("unsloth") is not None or why_not("vllm") is not None,
    reason=f"cannot run here: {why_not('unsloth') or why_not('vllm')}",
)
def test_unsloth_trains_it_and_vllm_draws_its_answers(base: BaseModelRef, tmp_path: Path) -> None:
    from tickerforge.training.backends import vllm_

    store = Store(tmp_path)
    changes = {"backend": "unsloth", "gpu_memory_utilization": 0.1, "load_in_4bit": False, "max_seq_length": 512}
    training = CONFIG.training.model_copy(update=changes)
    bars = fetch_bars.fn(SyntheticSource(config=CONFIG.synthetic), "DEMO", store=store)
    windows = store_windows.fn(bars, config=FEATURES, store=store)
    common = {"config": training, "seed": 0, "store": store}
    asked = {"features": FEATURES, **common}
    first = train_grpo.fn(windows, base, stage="grpo_1st", adapter=None, **asked)
    assert losses(first)
    accepted = sample_answers.fn(windows, base, adapter=first, **asked)
    assert vllm_._engine._kept
    assert accepted.meta["accepted"] == 2
    tuned = train_sft.fn(accepted, base, adapter=first, **common)
    assert losses(tuned)
    release_models()
