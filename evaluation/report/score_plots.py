"""Pictures of scores: CRPS and its skill, calibration, trading, and the learning curves of the stages."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import (
    BASELINES,
    DECIDING_METRIC,
    DRIFT,
    PERSISTENCE,
    RANDOM_WALK,
    SCORED_SPLITS,
    EvalReport,
    ScoredSplit,
    SkillInterval,
)
from tickerforge.evaluation.core.labels import METRICS, model_label, p_text
from tickerforge.evaluation.metrics.accuracy import skill
from tickerforge.evaluation.metrics.calibration import NOMINAL
from tickerforge.evaluation.report.tables import RULE_LABELS, sampled_models, ticker_skills
from tickerforge.evaluation.report.theme import (
    GRID,
    INK,
    MODEL_COLORS,
    MUTED,
    PAPER,
    date_axis,
    dress,
    faded,
    head,
    new_figure,
)
from tickerforge.features.stages import ADAPTERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 8
CURVES = (("reward", "reward"), ("loss", "loss"), ("valid_rate", "answers that parse"))


def crps_by_horizon(report: EvalReport, *, split: ScoredSplit = "test") -> "Figure":
    """Draw the CRPS for each session ahead, and the skill against the random walk."""
    figure = new_figure(10, 4.1)
    absolute, relative = figure.subplots(1, 2)
    rows = sorted(
        (r for r in report.metrics if (r.split, r.metric) == (split, DECIDING_METRIC) and r.horizon is not None),
        key=lambda row: row.horizon or 0,
    )
    ahead = [row.horizon or 0 for row in rows]
    scores = {
        model: np.array([row.values[model] for row in rows], dtype=float) for model in sampled_models(report, split)
    }
    gains = {
        model: np.array([skill(*pair) for pair in zip(score, scores[RANDOM_WALK], strict=True)])
        for model, score in scores.items()
    }
    dress(
        absolute,
        x_label="sessions ahead",
        y_label="daily standard deviations (σ)",
        title="CRPS of the log return",
    )
    dress(
        relative,
        x_label="sessions ahead",
        y_label="CRPS skill, %",
        title="CRPS skill against the random walk: above zero is better",
    )
    handles = {}
    for model, score in scores.items():
        style = _line_style(model)
        (handles[model_label(model)],) = absolute.plot(ahead, score, **style)
        relative.plot(ahead, 100 * gains[model], **style)
        known = {each.horizon: each for each in _intervals(report, model=model) if each.horizon}
        if known and report.judged == split:
            steps = sorted(known)
            low, high = 100 * np.array([[each.low, each.high] for _, each in sorted(known.items())]).T
            relative.fill_between(steps, low, high, color=MODEL_COLORS[model], alpha=0.15, linewidth=0)
    for axes in (absolute, relative):
        axes.set_xticks(ahead if len(ahead) <= 12 else ahead[::5])
    absolute.set_ylim(bottom=0)
    floor = _skill_floor({model: float(np.abs(gain).max()) for model, gain in gains.items()})
    relative.set_ylim(bottom=max(relative.get_ylim()[0], 100 * floor))
    head(figure, f"{report.ticker}: CRPS by session ahead, {split} split", handles=handles)
    return figure


def skill_bars(report: EvalReport) -> "Figure":
    """Draw every distribution's CRPS skill against the random walk, with the p-values; validation pale, test full.

    Whiskers are 95 % intervals; they are drawn only if the gate judges the whole test split.
    """
    from matplotlib.patches import Patch

    models = [model for model in sampled_models(report, "test") if model != RANDOM_WALK]
    figure = new_figure(10, 1.4 + 0.55 * len(models))
    axes = figure.subplots()
    dress(axes, x_label="CRPS skill against the random walk, % (above zero is better)")
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    axes.axvline(0, color=MODEL_COLORS[RANDOM_WALK], linewidth=1.4)
    skills = {
        (model, split): report.value(model, split=split, metric="crps_skill") or 0.0
        for model in models
        for split in SCORED_SPLITS
    }
    together = report.whole_superiority if report.judged == "test" else None
    intervals = together.skill_intervals if together else {}
    floor = _skill_floor({model: max(abs(skills[model, split]) for split in SCORED_SPLITS) for model in models})
    for place, model in enumerate(models):
        for split, offset in zip(SCORED_SPLITS, (-0.2, 0.2), strict=True):
            value = skills[model, split]
            shown = max(value, floor)
            full = MODEL_COLORS[model]
            axes.barh(
                place + offset,
                100 * shown,
                height=0.36,
                color=full if split == "test" else faded(full),
            )
            ends = intervals.get(model) if split == "test" else None
            if ends and value > floor:
                low, high = 100 * max(ends[0], floor), 100 * ends[1]
                axes.hlines(place + offset, low, high, color=INK, linewidth=1.1)
            if shown > value:
                axes.text(100 * shown, place + offset, "◀ ", color=PAPER, va="center", fontsize=7)
            test = report.test_of(model, split=split, against=RANDOM_WALK, loss=DECIDING_METRIC)
            text = METRICS["crps_skill"].write(value) + (
                f"  ({p_text(test.p_value)})" if test and split == "test" else ""
            )
            axes.annotate(
                text,
                (100 * max(shown, ends[1] if ends and value > floor else 0.0, 0.0), place + offset),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK if split == "test" else MUTED,
            )
    axes.set_yticks(range(len(models)), [model_label(model) for model in models], fontsize=9.5, color=INK)
    axes.invert_yaxis()
    left, right = axes.get_xlim()
    axes.set_xlim(left, max(right, 0.0) + 0.22 * (right - left))
    handles = {
        "Validation (the choice is made here)": Patch(color=faded(MUTED)),
        "Test (scored once)": Patch(color=MUTED),
    }
    head(figure, f"{report.ticker}: CRPS skill against the random walk, %", handles=handles)
    return figure


def calibration_plot(report: EvalReport, *, model: str, split: ScoredSplit) -> "Figure":
    """Draw the share of prices in each tenth of a model's distribution, and the coverage of each band.

    Raises:
        StopIteration: The report has no distribution of that model.
    """
    found = next(each for each in report.calibration if (each.model, each.split) == (model, split))
    figure = new_figure(10, 3.9)
    tenths, bands = figure.subplots(1, 2, width_ratios=[1.5, 1])
    dress(
        tenths,
        x_label="tenth of the predictive distribution, lowest first",
        y_label="share of the prices, %",
        title="Probability integral transform: flat is calibrated",
    )
    places = np.arange(1, len(found.shares) + 1)
    tenths.bar(places, 100 * np.array(found.shares), width=0.86, color=faded(MODEL_COLORS[model], share=0.7))
    tenths.axhline(100 / len(places), color=INK, linewidth=1.2, linestyle="--")
    tenths.set_xticks(places)
    dress(
        bands,
        x_label="nominal coverage of the band, %",
        y_label="prices inside the band, %",
        title="Bands: on the line is calibrated",
    )
    promised = 100 * np.array(NOMINAL)
    bands.plot([0, 100], [0, 100], color=INK, linewidth=1.2, linestyle="--")
    for name in report.models:
        held = [report.value(name, split=split, metric=f"coverage_{share:.0f}") for share in promised]
        if None not in held:
            shown = 100 * np.array(held, dtype=float)
            style = {"linewidth": 2.2, "markersize": 6} if name == model else {"linewidth": 1, "markersize": 3.5}
            bands.plot(promised, shown, marker="o", color=MODEL_COLORS[name], label=model_label(name), **style)
    bands.set_xlim(40, 100)
    bands.set_ylim(0, 102)
    bands.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    head(figure, f"{report.ticker}: calibration of {model_label(model)}, {split} split")
    return figure


def ticker_plot(report: EvalReport, *, model: str, split: ScoredSplit) -> "Figure":
    """Draw the CRPS skill on each of a pool's tickers with its 95 % interval, lowest first."""
    skills = ticker_skills(report, model=model, split=split)
    ends = {each.ticker: each for each in _intervals(report, model=model) if each.ticker is not None}
    figure = new_figure(10, 4.3)
    axes = figure.subplots()
    dress(axes, x_label="tickers, lowest skill first", y_label="CRPS skill against the random walk, %")
    axes.axhline(0, color=MODEL_COLORS[RANDOM_WALK], linewidth=1.4)
    for place, (ticker, value) in enumerate(skills.items()):
        if ticker in ends:
            axes.vlines(place, 100 * ends[ticker].low, 100 * ends[ticker].high, color=faded(MODEL_COLORS[model]))
        axes.plot(place, 100 * value, marker="o", markersize=4, color=MODEL_COLORS[model])
    sizes = [abs(value) for value in skills.values()]
    reach = 100 * float(np.clip(3 * max(sizes), 0.05, 1.0))
    axes.set_ylim(max(axes.get_ylim()[0], -reach), min(axes.get_ylim()[1], reach))
    every = -(-len(skills) // 70)
    axes.set_xticks(
        range(0, len(skills), every), list(skills)[::every], rotation=90, fontsize=7 if len(skills) > 25 else 8.5
    )
    head(figure, f"{report.ticker}: CRPS skill of {model_label(model)} by ticker, {split} split")
    return figure


def capital_curves(report: EvalReport, *, model: str) -> "Figure":
    """Draw the capital of every trading rule by one model, by drift and by persistence, beside buying and holding.

    Raises:
        ValueError: The report has no backtest.
    """
    found = report.backtest
    if found is None:
        raise ValueError(f"{report.ticker}: the report has no backtest")
    rules = list(dict.fromkeys(account.rule for account in found.accounts if account.model))
    lines = -(-len(rules) // 2)
    figure = new_figure(10, 1.0 + 2.9 * lines)
    grid = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    days = np.array(found.dates, dtype="datetime64[D]")
    handles: dict[str, Any] = {}
    for rule, axes in zip(rules, grid.flat, strict=True):
        dress(axes, y_label="capital, start = 1", title=RULE_LABELS[rule])
        held = found.of("buy_and_hold")
        if held is not None:
            (handles[RULE_LABELS["buy_and_hold"]],) = axes.plot(days, held.equity, color=INK, linewidth=1.1)
        for name in dict.fromkeys((PERSISTENCE, DRIFT, model)):
            account = found.of(rule, name)
            if account is not None:
                style = _line_style(name) | {"marker": ""}
                (handles[model_label(name)],) = axes.plot(days, account.equity, **style)
        date_axis(axes)
    title = f"{report.ticker}: capital over time, costs of {found.cost_bps:g} basis points per trade"
    head(figure, title, handles=handles)
    return figure


def has_curves(training_metrics: pd.DataFrame) -> bool:
    """Return whether any stage logged a reward or a loss."""
    return bool(len(training_metrics)) and bool(_curves_by_stage(training_metrics))


def learning_curves(training_metrics: pd.DataFrame, *, ticker: str) -> "Figure":
    """Draw reward (or loss) and share of valid answers by step of each stage; thin: as logged, thick: running mean.

    Args:
        training_metrics: Columns `stage step reward valid_rate loss`; a value is missing if the stage has no
            such figure. Stages are drawn in the order of their first row.
        ticker: For the title.

    Raises:
        ValueError: No stage has a reward or a loss.
    """
    panels = _curves_by_stage(training_metrics)
    if not panels:
        raise ValueError(f"{ticker}: the training metrics have neither a reward nor a loss")
    figure = new_figure(10, 4.6)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex="col", height_ratios=[1.6, 1])
    limits = _common_limits(panels)
    for column, (stage, curves) in enumerate(panels.items()):
        color = MODEL_COLORS.get(stage, INK)
        main = "reward" if "reward" in curves else "loss"
        for axes, name in zip(grid[:, column], (main, "valid_rate"), strict=True):
            if name not in curves:
                axes.set_axis_off()
                continue
            label = dict(CURVES)[name]
            dress(
                axes,
                y_label=f"{label}, %" if name == "valid_rate" else label,
                title=model_label(stage) if name == main else "",
            )
            step, value = curves[name]["step"], curves[name][name] * (100 if name == "valid_rate" else 1)
            axes.plot(step, value, color=color, linewidth=0.9, alpha=0.4)
            axes.plot(step, value.rolling(SMOOTHING, min_periods=1, center=True).mean(), color=color, linewidth=2)
            axes.set_ylim(*limits[name])
        last = grid[1, column] if "valid_rate" in curves else grid[0, column]
        last.set_xlabel("step", color=MUTED, fontsize=8.5)
        last.tick_params(labelbottom=True)
    head(figure, f"{ticker}: training by step of each stage")
    return figure


def _intervals(report: EvalReport, *, model: str) -> list[SkillInterval]:
    return [each for each in report.intervals if each.model == model and each.loss == DECIDING_METRIC]


def _skill_floor(largest: dict[str, float]) -> float:
    """Return the lower end of a skill axis, so that one very bad forecaster does not flatten drift and the adapters."""
    telling = [size for model, size in largest.items() if model == DRIFT or model in ADAPTERS]
    return -float(np.clip(2 * max(telling), 0.05, 0.5))


def _curves_by_stage(metrics: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the logged steps of each figure for each stage with a reward or a loss.

    A stage with a reward gets no loss: GRPO's loss stays near 0 and carries no information.
    """
    panels = {}
    for stage, rows in metrics.groupby("stage", sort=False):
        curves = {name: rows[["step", name]].dropna() for name, _ in CURVES if name in rows}
        curves = {name: logged for name, logged in curves.items() if len(logged)}
        if "reward" in curves:
            curves.pop("loss", None)
        if {"reward", "loss"} & set(curves):
            panels[str(stage)] = curves
    return panels


def _common_limits(panels: dict[str, dict[str, pd.DataFrame]]) -> dict[str, tuple[float, float]]:
    """Return one range per figure for all stages, so that heights are comparable; valid answers in percent."""
    limits = {}
    for name, _ in CURVES:
        logged = [curves[name][name] for curves in panels.values() if name in curves]
        if logged:
            low, high = min(values.min() for values in logged), max(values.max() for values in logged)
            room = 0.06 * (high - low) or 0.05
            limits[name] = (low - room, high + room)
    if "valid_rate" in limits:
        limits["valid_rate"] = (max(0.0, min(90.0, 100 * limits["valid_rate"][0])), 101.0)
    return limits


def _line_style(model: str) -> dict[str, Any]:
    baseline = model in BASELINES
    return {
        "color": MODEL_COLORS[model],
        "linewidth": 1.4 if baseline else 2,
        "linestyle": "--" if baseline else "-",
        "marker": "" if baseline else "o",
        "markersize": 3.5,
    }
