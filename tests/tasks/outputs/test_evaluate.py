import shutil
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.evaluation.core.contracts import BASELINES
from tickerforge.tasks.base.disk import folder_sha256
from tickerforge.tasks.base.errors import NotFinished, PublishError
from tickerforge.tasks.base.paths import ModelFolder, RunFolder
from tickerforge.tasks.base.prefect_artifacts import artifact_key, comparison_rows
from tickerforge.tasks.outputs.evaluate import compare_models, named_scores, read_report, read_verdict, training_curves
from tickerforge.tasks.outputs.publish import (
    publish_adapter,
    publish_comparison_folder,
    publish_sft_data,
    publish_stage,
)
from tickerforge.tasks.store.artifacts import ArtifactRef, FinishedOnly
from tickerforge.tasks.windows.preprocess import read_bars
from trained_pieces import EVALUATION, FEATURES, GATE, GRPO, TRAINING, Pieces, run_forecast


def test_every_model_is_asked_for_the_same_windows_of_both_splits(made: Pieces) -> None:
    frames = [pd.read_parquet(ref.path / "forecasts.parquet") for ref in made.forecasts]
    for frame, ref in zip(frames, made.forecasts, strict=True):
        assert set(frame["model"]) == {ref.meta["model"]}
        assert dict(frame["split"].value_counts()) == {"validation": 6, "test": 6}
        assert list(frame["origin"]) == list(frames[0]["origin"])
        assert 0 < float(ref.meta["valid_rate"]) <= 1
    assert [ref.meta["model"] for ref in made.forecasts] == ["base", "grpo_1st", "sft"]


def test_forecasts_are_found_again_and_depend_on_adapter_and_sampling(made: Pieces) -> None:
    again = run_forecast(made.store, made.windows, made.base_model, model="sft", adapter=made.sft)
    assert again.cached
    assert again.key == made.forecasts[2].key
    assert len({ref.key for ref in made.forecasts}) == 3


def test_the_comparison_holds_report_numbers_and_verdict(made: Pieces) -> None:
    folder = made.comparison.path
    assert {"report.html", "report.md", "metrics.parquet", "report.json", "verdict.json"} <= {
        path.name for path in folder.iterdir()
    }
    report, verdict = read_report(made.comparison), read_verdict(made.comparison)
    assert set(report.models) == {*BASELINES, "base", "grpo_1st", "sft"}
    assert report.chosen in ("grpo_1st", "sft")
    assert verdict.model == report.chosen
    assert made.comparison.meta == {
        "chosen": report.chosen,
        "promoted": verdict.promoted,
        "headline": verdict.headline,
    }
    page = (folder / "report.html").read_text()
    assert made.windows.sha256[:16] in page
    assert made.sft.key[:12] in page


def test_scores_are_named_split_and_metric(made: Pieces) -> None:
    scores = named_scores(read_report(made.comparison))
    assert scores["persistence"]["test/skill"] == 0
    assert {"validation/mse", "test/mse", "test/mae", "test/directional_accuracy"} <= set(scores["sft"])


@pytest.fixture(scope="module")
def with_bars(made: Pieces) -> ArtifactRef:
    """A comparison that has prices to trade at, and pictures."""
    return compare_models.fn(
        made.windows,
        made.forecasts,
        stages={"grpo_1st": made.grpo_1st, "sft": made.sft},
        bars=[made.bars],
        features=FEATURES,
        evaluation=EVALUATION.model_copy(update={"pictures": True}),
        gate=GATE,
        store=made.store,
    )


def test_a_comparison_with_bars_trades_at_their_adjusted_opens_and_logs_sharpe_ratios(
    made: Pieces, with_bars: ArtifactRef
) -> None:
    report = read_report(with_bars)
    assert report.backtest is not None
    held = report.backtest.of("buy_and_hold")
    assert held is not None
    bars = read_bars(made.bars)
    opens = (bars["open"] * bars["adj_close"] / bars["close"]).set_axis(bars["date"])
    first, last = (opens[pd.Timestamp(report.backtest.dates[place])] for place in (0, -1))
    assert held.total_return == pytest.approx(last / first * 0.999**2 - 1)
    traded = {model for model, scores in named_scores(report).items() if "test/long_short_sharpe" in scores}
    assert "persistence" not in traded
    assert {"base", "sft"} <= traded
    assert 'id="picture-trading"' in (with_bars.path / "report.html").read_text()


def test_the_curves_hold_reward_by_step_in_the_order_of_the_stages(made: Pieces) -> None:
    curves = training_curves({"grpo_1st": made.grpo_1st, "sft": made.sft})
    assert list(curves.columns) == ["stage", "step", "reward", "valid_rate", "loss"]
    assert list(curves["stage"].unique()) == ["grpo_1st", "sft"]
    assert curves.loc[curves["stage"] == "grpo_1st", "reward"].notna().all()
    assert curves.loc[curves["stage"] == "sft", "loss"].notna().all()


def test_a_stricter_gate_is_a_new_comparison_of_the_same_forecasts(made: Pieces) -> None:
    arguments: dict = {
        "features": FEATURES,
        "stages": {"grpo_1st": made.grpo_1st, "sft": made.sft},
        "evaluation": EVALUATION,
        "store": made.store,
    }
    assert compare_models.fn(made.windows, made.forecasts, gate=GATE, **arguments).cached
    arguments["store"] = FinishedOnly(made.store.root)
    with pytest.raises(NotFinished):
        compare_models.fn(made.windows, made.forecasts, gate=GATE.model_copy(update={"min_skill": 0.99}), **arguments)


def test_a_stage_that_is_made_again_in_other_seconds_leaves_the_comparison_as_it_is(
    made: Pieces, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(made.sft.path, again)
    (again / "metrics.jsonl").write_text((again / "metrics.jsonl").read_text().replace('"seconds": ', '"seconds": 9'))
    sft = made.sft.model_copy(update={"path": again, "sha256": folder_sha256(again)})
    assert sft.sha256 != folder_sha256(made.sft.path)
    comparison = compare_models.fn(
        made.windows,
        made.forecasts,
        stages={"grpo_1st": made.grpo_1st, "sft": sft},
        features=FEATURES,
        evaluation=EVALUATION,
        gate=GATE,
        store=FinishedOnly(made.store.root),
    )
    assert comparison.key == made.comparison.key


def test_a_champion_stands_in_the_table_and_is_judged_against_but_never_chosen(made: Pieces) -> None:
    base, grpo_1st, sft = made.forecasts
    alone = read_report(made.comparison)
    comparison = compare_models.fn(
        made.windows,
        [base, sft],
        stages={"sft": made.sft},
        champion=grpo_1st,
        given={"champion": alone.recalibrations["grpo_1st"]},
        features=FEATURES,
        evaluation=EVALUATION,
        gate=GATE,
        store=made.store,
    )
    report, verdict = read_report(comparison), read_verdict(comparison)
    assert report.models[-1] == "champion"
    assert report.chosen == "sft"
    assert report.n_candidates == 1
    assert report.recalibrations["champion"] == alone.recalibrations["grpo_1st"]
    assert report.value("champion", split="test", metric="mse") == alone.value("grpo_1st", split="test", metric="mse")
    assert {"champion_validation", "champion_test"} <= {reason.name for reason in verdict.reasons}
    assert comparison_rows(report)[-1]["Model"] == "Current champion"
    assert "Current champion" in (comparison.path / "report.html").read_text()


def test_the_ui_table_has_one_row_a_model_and_marks_the_chosen_one(made: Pieces) -> None:
    report = read_report(made.comparison)
    rows = comparison_rows(report)
    assert len(rows) == len(report.models)
    assert rows[0]["Model"] == "Persistence"
    assert sum("chosen" in row["Model"] for row in rows) == 1
    assert all("MSE (z)" in row for row in rows)


@pytest.mark.parametrize(
    ("ticker", "key"), [("BRK.B", "report-brk-b"), ("^GSPC", "report-gspc"), ("A=F_1", "report-a-f-1")]
)
def test_artifact_keys_are_lower_case_letters_digits_and_dashes(ticker: str, key: str) -> None:
    assert artifact_key("report", ticker) == key


def test_results_and_adapters_are_published_in_their_folders(
    made: Pieces, with_bars: ArtifactRef, tmp_path: Path
) -> None:
    run, models = RunFolder(tmp_path / "run"), ModelFolder(tmp_path / "models" / "tiny" / "DEMO")
    publish_stage(made.grpo_1st, run, windows=made.windows, features=FEATURES, training=TRAINING)
    csv = publish_sft_data(made.sft_data, run, stock="DEMO")
    assert csv.with_name("answers.parquet").samefile(made.sft_data.path / "answers.parquet")
    publish_comparison_folder(with_bars, run)
    folder = publish_adapter(made.sft, models, card=made.card())
    assert {path.name for path in run.stage("grpo_1st").iterdir()} == {
        "metrics.jsonl",
        "manifest.json",
        "answers.parquet",
        "rollouts.html",
    }
    page = (run.stage("grpo_1st") / "rollouts.html").read_text()
    assert [f"<h2>Step {step}</h2>" in page for step in (1, GRPO.steps, GRPO.steps + 1)] == [True, True, False]
    assert "What happened: " in page
    assert "You forecast daily closing prices" in page
    assert csv == run.stage("sft_data") / "DEMO_sft_training_data.csv"
    assert len(pd.read_csv(csv)) == made.sft_data.meta["accepted"]
    comparison = run.stage("comparison")
    assert (comparison / "figures" / "trading.png").is_file()
    assert (comparison / "report.html").samefile(with_bars.path / "report.html")
    assert not (with_bars.path / "figures").exists()
    assert folder == models.root / "sft_lora"
    assert {"adapter_config.json", "adapter_model.safetensors", "tickerforge.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_published_adapter_replaces_its_predecessor_whole(made: Pieces, tmp_path: Path) -> None:
    models = ModelFolder(tmp_path / "DEMO")
    folder = publish_adapter(made.sft, models, card=made.card())
    (folder / "left-over.txt").write_text("of the former one")
    publish_adapter(made.sft, models, card=made.card())
    assert not (folder / "left-over.txt").exists()


def test_a_folder_that_is_not_ours_is_not_replaced(made: Pieces, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(PublishError, match="was not written by TickerForge"):
        publish_adapter(made.sft, tmp_path / "mine", card=made.card())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
