"""Forecasts of every model as stored artifacts, and the comparison with its report and verdict."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from prefect import task

from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import compare, select_windows
from tickerforge.evaluation.comparison.contamination import UNKNOWN_CUT_OFF
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.comparison.recalibrate import fit_recalibration, recalibrated_frame
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.core.contracts import CURRENT_CHAMPION, EvalReport, Verdict
from tickerforge.evaluation.core.forecasts import collect_forecasts
from tickerforge.evaluation.core.labels import model_label
from tickerforge.evaluation.core.panels import session_calendar
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.evaluation.monitoring.drift import ExpectedError, expected_error
from tickerforge.features.config import FeatureConfig, QualityConfig
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import adjust
from tickerforge.features.prices.schemas import Columns, bar_columns
from tickerforge.features.stages import ADAPTERS, COMPARISON, FORECASTS
from tickerforge.features.tables import read_frame
from tickerforge.tasks.base.paths import (
    EXPECTED_ERROR_FILE,
    FORECASTS_FILE,
    METRICS_FILE,
    REPORT_DATA_FILE,
    VERDICT_FILE,
)
from tickerforge.tasks.base.progress import progress_reporter
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.models.adapters import BaseModelRef, adapter_folder, adapter_identity
from tickerforge.tasks.models.train import MODEL_LIBRARIES, MODEL_MODULES, stage_inputs
from tickerforge.tasks.models.training_log import read_metrics
from tickerforge.tasks.prices.quality import assess_bars, read_quality, with_history
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version, read_manifest
from tickerforge.tasks.windows.preprocess import read_bars, read_train_rows, read_windows
from tickerforge.training.config import TrainingConfig

COMPARISON_LIBRARIES = ("pandas", "numpy", "scipy", "statsmodels", "arch", "scikit-learn", "matplotlib", "jinja2")


@task(name="forecast-model", task_run_name="forecast {model}", **TASK_OPTIONS)
def forecast_model(
    windows: ArtifactRef,
    base_model: BaseModelRef,
    *,
    model: str,
    adapter: ArtifactRef | Path | None,
    config: TrainingConfig,
    features: FeatureConfig,
    evaluation: EvaluationConfig,
    seed: int,
    store: Store,
) -> ArtifactRef:
    """Ask one model for the validation and test windows, and store its forecasts as `forecasts.parquet`.

    Args:
        windows: Artifact of `store_windows`.
        base_model: Result of `prepare_base_model`.
        model: Name in tables: `base`, `pooled`, `grpo_1st`, `sft`, `grpo_2nd` or `champion`.
        adapter: Adapter to load, as in `train_grpo`; `None` asks the base model.
        config: Backend and sampling.
        features: How windows become prompts.
        evaluation: Selection of the windows.
        seed: Seed of the sampling.
        store: Store of the artifact.

    Returns:
        Artifact of the stage `forecasts`; its meta holds `model`, `windows` and `valid_rate`.
    """
    from tickerforge.training.stages import answer_generator

    def build(folder: Path) -> Mapping[str, Scalar]:
        selected = select_windows(read_windows(windows), config=evaluation)
        with progress_reporter() as report:
            generate = answer_generator(
                base_model=base_model.location,
                adapter=adapter_folder(adapter),
                config=config,
                horizon=features.horizon,
                seed=seed,
                stage=f"forecast {model}",
                on_progress=report,
            )
            frame = collect_forecasts(
                selected, generate, model=model, config=features, n_samples=config.sampling.samples
            )
        frame.to_parquet(folder / FORECASTS_FILE, index=False)
        return {
            "model": model,
            "base_model": base_model.model,
            "windows": len(frame),
            "valid_rate": float(frame["n_valid"].sum() / frame["n_samples"].sum()),
        }

    inputs = stage_inputs(FORECASTS, base_model, adapter, config) | {
        "windows": windows,
        "features": features,
        "model": model,
        "max_windows": evaluation.max_windows,
    }
    code = code_version(
        *MODEL_MODULES,
        "tickerforge.evaluation.comparison.compare",
        "tickerforge.evaluation.core.forecasts",
        libraries=MODEL_LIBRARIES,
    )
    return store.build(FORECASTS.name, inputs, build, code=code, seed=seed)


@task(name="compare-models", **TASK_OPTIONS)
def compare_models(
    windows: ArtifactRef,
    forecasts: Sequence[ArtifactRef],
    *,
    stages: Mapping[str, ArtifactRef],
    bars: Sequence[ArtifactRef] = (),
    champion: ArtifactRef | None = None,
    features: FeatureConfig,
    evaluation: EvaluationConfig,
    gate: GateConfig,
    store: Store,
    quality: QualityConfig | None = None,
    command: str = "",
    given: Mapping[str, Recalibration] | None = None,
) -> ArtifactRef:
    """Calibrate the adapters, score the models against the free forecasters, decide by the gate, write the report.

    Args:
        windows: Artifact of `store_windows`.
        forecasts: Artifacts of `forecast_model`, one per model.
        stages: Artifacts of the training stages by name; the report draws its curves from their `metrics.jsonl`.
        bars: Artifacts of `fetch_bars` of all tickers of the windows, for the backtest and for the quality of the
            prices; the report has neither without them.
        champion: Forecasts of the current champion, under any model name; also one of `forecasts` if the champion is
            one of those models.
        features: Settings of windows and prompts.
        evaluation: How forecasts are compared.
        gate: When a challenger becomes champion.
        store: Store of the artifact.
        quality: Settings of the price check in the report; `None` for synthetic prices.
        command: Command that repeats the run, for the report.
        given: Stored recalibration of adapters that were not trained here, by the model's name.

    Returns:
        Artifact of the stage `comparison` with `report.html`, `report.md`, `metrics.parquet`, `report.json`,
        `verdict.json` and `expected_error.json`; its meta holds `chosen`, `promoted` and `headline`.
    """
    from tickerforge.evaluation.report.report import write_report

    def build(folder: Path) -> Mapping[str, Scalar]:
        frame = read_windows(windows)
        selected = select_windows(frame, config=evaluation)
        asked = [read_frame(ref.path / FORECASTS_FILE) for ref in forecasts]
        if champion is not None:
            asked.append(read_frame(champion.path / FORECASTS_FILE).assign(model=CURRENT_CHAMPION))
        pool = POOL if windows.meta.get("ticker") == POOL else None
        free = baseline_forecasts(selected, windows=frame, train=read_train_rows(windows))
        recalibrations = dict(given or {})
        calendar, train = session_calendar(frame), frame[frame["split"] == "train"]
        for place, each in enumerate(asked):
            model = str(each["model"].iloc[0])
            if model in ADAPTERS:
                recalibrations[model] = fit_recalibration(selected, each, train=train, model=model, calendar=calendar)
            asked[place] = recalibrated_frame(selected, each, recalibration=recalibrations.get(model, Recalibration()))
        answers = pd.concat([free, *asked], ignore_index=True)
        series = {str(ref.meta["ticker"]): read_bars(ref) for ref in bars}
        report = compare(frame, answers, config=evaluation, pool=pool, opens=_opens(series))
        notes = list(report.notes)
        if evaluation.test_after is None and _known_models(forecasts) - {"tiny"}:
            notes.insert(0, UNKNOWN_CUT_OFF)
        notes += [
            f"{model_label(model)} is recalibrated: its median's move times {each.median:.2f}, and around it the "
            "distribution of the moves of train, as wide as its errors on validation. Of how much the spread of its "
            f"answers varies between windows, {each.variation:.0%} is kept."
            for model, each in recalibrations.items()
            if not each.changes_nothing
        ]
        report = report.model_copy(update={"notes": tuple(notes), "recalibrations": recalibrations})
        verdict = decide(report, gate)
        write_report(
            report,
            verdict,
            windows=frame,
            forecasts=answers,
            training_metrics=training_curves(stages),
            out_dir=folder,
            config=evaluation,
            provenance=_provenance(windows, forecasts, stages) | ({"Command": command} if command else {}),
            quality=[with_history(read_quality(each), ref) for each, ref in zip(checked, bars, strict=False)],
        )
        (folder / REPORT_DATA_FILE).write_text(report.model_dump_json(indent=2), encoding="utf-8")
        (folder / VERDICT_FILE).write_text(verdict.model_dump_json(indent=2), encoding="utf-8")
        if report.chosen is not None:
            expected = expected_error(frame, answers, model=report.chosen, config=evaluation)
            (folder / EXPECTED_ERROR_FILE).write_text(expected.model_dump_json(indent=2), encoding="utf-8")
        return {"chosen": report.chosen, "promoted": verdict.promoted, "headline": verdict.headline}

    checked = _price_quality(bars, config=quality, store=store)
    inputs = {
        "windows": windows,
        "forecasts": {str(ref.meta["model"]): ref for ref in forecasts},
        # Not the whole content: if a stage runs again, it logs other seconds.
        "stages": {stage: {"key": ref.key, "adapter": adapter_identity(ref)} for stage, ref in stages.items()},
        "bars": list(bars),
        "quality": checked,
        "champion": champion,
        "features": features,
        "evaluation": evaluation,
        "gate": gate,
        "given": dict(given or {}),
    }
    code = code_version(
        "tickerforge.evaluation",
        "tickerforge.features",
        "tickerforge.tasks.outputs.evaluate",
        libraries=COMPARISON_LIBRARIES,
    )
    return store.build(COMPARISON.name, inputs, build, code=code)


def read_report(comparison: ArtifactRef) -> EvalReport:
    """Read the figures of an artifact of `compare_models`."""
    return EvalReport.model_validate_json((comparison.path / REPORT_DATA_FILE).read_bytes())


def read_verdict(comparison: ArtifactRef) -> Verdict:
    """Read the verdict of an artifact of `compare_models`."""
    return Verdict.model_validate_json((comparison.path / VERDICT_FILE).read_bytes())


def read_expected_error(comparison: ArtifactRef) -> ExpectedError:
    """Read the error that the test split predicts for the chosen adapter live; only if an adapter was chosen."""
    return ExpectedError.model_validate_json((comparison.path / EXPECTED_ERROR_FILE).read_bytes())


def named_scores(report: EvalReport) -> dict[str, dict[str, float]]:
    """Return each model's figures over the whole horizon and its Sharpe ratios, named `split/metric` as in MLflow."""
    named: dict[str, dict[str, float]] = {model: {} for model in report.models}
    for row in report.metrics:
        for model, value in row.values.items():
            if row.horizon is None and value is not None:
                named[model][f"{row.split}/{row.metric}"] = value
    for account in report.backtest.accounts if report.backtest else ():
        if report.backtest and account.model and account.sharpe is not None:
            named[account.model][f"{report.backtest.split}/{account.rule}_sharpe"] = account.sharpe
    return named


def training_curves(stages: Mapping[str, ArtifactRef]) -> pd.DataFrame:
    """Return the logged steps of the stages: columns `stage step reward valid_rate loss`, NaN for missing ones."""
    rows = [
        {"stage": stage, "step": step, **metrics}
        for stage, ref in stages.items()
        for step, metrics in read_metrics(ref.path / METRICS_FILE)
    ]
    return pd.DataFrame(rows).reindex(columns=["stage", "step", "reward", "valid_rate", "loss"])


def _opens(bars: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Return the adjusted opens of all tickers, columns `ticker date open`; `None` without bars."""
    frames = [adjust(each)[["date", "open"]].assign(ticker=ticker) for ticker, each in bars.items()]
    return pd.concat(frames, ignore_index=True) if frames else None


def _price_quality(bars: Sequence[ArtifactRef], *, config: QualityConfig | None, store: Store) -> list[ArtifactRef]:
    """Return the quality of the prices, one artifact per ticker."""
    if config is None:
        return []
    return [assess_bars(each, partial(_columns, each), config=config, store=store)[0] for each in bars]


def _columns(bars: ArtifactRef) -> Columns:
    return bar_columns(read_bars(bars))


def _known_models(forecasts: Sequence[ArtifactRef]) -> set[str]:
    return {str(ref.meta["base_model"]) for ref in forecasts}


def _provenance(
    windows: ArtifactRef, forecasts: Sequence[ArtifactRef], stages: Mapping[str, ArtifactRef]
) -> dict[str, str]:
    """Return the origin of a report, by label."""
    manifest = read_manifest(forecasts[0] if forecasts else windows)
    libraries = ("tickerforge", "torch", "transformers", "trl", "peft", "pandas")
    trained = [f"{stage} {ref.key[:12]} (seed {read_manifest(ref).seed})" for stage, ref in stages.items()]
    sessions = ", ".join(f"{windows.meta[split]} {split}" for split in ("train", "validation", "test"))
    return {
        "Base model": ", ".join(sorted(_known_models(forecasts))),
        "Windows": sessions,
        **_provenance_of_pool(windows),
        "Data": f"windows {windows.sha256[:16]}",
        "Stages": ", ".join(trained),
        "Code": manifest.git_revision,
        "Versions": ", ".join(f"{name} {manifest.packages[name]}" for name in libraries if name in manifest.packages),
    }


def _provenance_of_pool(windows: ArtifactRef) -> dict[str, str]:
    if windows.meta.get("ticker") != POOL:
        return {}
    shown = {"Pooled": "pooled", "Left out": "left_out", "Common borders": "borders"}
    return {label: str(windows.meta[name]) for label, name in shown.items() if windows.meta[name]}
