"""Pictures of scores: error by session ahead, skill of every model, and the stages' learning curves."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import BASELINES, DRIFT, PERSISTENCE, SPLITS, EvalReport, Split
from tickerforge.evaluation.core.labels import METRICS, model_label, p_text
from tickerforge.evaluation.metrics.accuracy import skill
from tickerforge.evaluation.report.theme import LIGHT, Theme, date_axis, dress, faded, head, new_figure
from tickerforge.evaluation.report.trading import RULE_LABELS
from tickerforge.features.stages import ADAPTERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 8
CURVES = (("reward", "reward"), ("loss", "loss"), ("valid_rate", "answers that parse"))


def error_by_horizon(report: EvalReport, *, split: Split = "test", theme: Theme = LIGHT) -> "Figure":
    """Root mean squared error for each session ahead, and the same relative to persistence."""
    figure = new_figure(10, 4.1, theme=theme)
    absolute, relative = figure.subplots(1, 2)
    rows = sorted(
        (row for row in report.metrics if row.split == split and row.horizon is not None),
        key=lambda row: row.horizon or 0,
    )
    ahead = [row.horizon or 0 for row in rows]
    errors = {model: np.array([row.values[model] for row in rows], dtype=float) for model in report.models}
    gains = {
        model: np.array([skill(*pair) for pair in zip(error, errors[PERSISTENCE], strict=True)])
        for model, error in errors.items()
    }
    dress(
        absolute,
        theme=theme,
        x_label="sessions ahead",
        y_label="daily standard deviations (σ)",
        title="Root mean squared error of the log return",
    )
    dress(
        relative,
        theme=theme,
        x_label="sessions ahead",
        y_label="skill, %",
        title="Skill against persistence: above zero is better",
    )
    handles = {}
    for model, error in errors.items():
        style = _line_style(model, theme=theme)
        (handles[model_label(model)],) = absolute.plot(ahead, np.sqrt(error), **style)
        relative.plot(ahead, 100 * gains[model], **style)
        known = {each.horizon: each for each in report.intervals if each.horizon and each.model == model}
        if known and report.judged == split:
            steps = sorted(known)
            low, high = 100 * np.array([[each.low, each.high] for _, each in sorted(known.items())]).T
            relative.fill_between(steps, low, high, color=theme.models[model], alpha=0.15, linewidth=0)
    for axes in (absolute, relative):
        axes.set_xticks(ahead if len(ahead) <= 12 else ahead[::5])
    absolute.set_ylim(bottom=0)
    floor = _skill_floor({model: float(np.abs(gain).max()) for model, gain in gains.items()})
    relative.set_ylim(bottom=max(relative.get_ylim()[0], 100 * floor))
    head(figure, f"{report.ticker}: error by session ahead, {split} split", theme=theme, handles=handles)
    return figure


def skill_bars(report: EvalReport, *, theme: Theme = LIGHT) -> "Figure":
    """Skill against persistence of every other model on validation (pale) and on test (full), with the p-values.

    Whiskers are the 95 % intervals of the split that decides, where that is the whole of test.
    """
    from matplotlib.patches import Patch

    models = [model for model in report.models if model != PERSISTENCE]
    figure = new_figure(10, 1.4 + 0.55 * len(models), theme=theme)
    axes = figure.subplots()
    dress(axes, theme=theme, x_label="skill against persistence, % (above zero: smaller squared error)")
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=theme.grid, linewidth=0.8)
    axes.axvline(0, color=theme.models[PERSISTENCE], linewidth=1.4)
    skills = {
        (model, split): report.value(model, split=split, metric="skill") or 0.0 for model in models for split in SPLITS
    }
    together = report.superiority if report.judged == "test" else None
    intervals = together.skill_intervals if together else {}
    floor = _skill_floor({model: max(abs(skills[model, split]) for split in SPLITS) for model in models})
    for place, model in enumerate(models):
        for split, offset in zip(SPLITS, (-0.2, 0.2), strict=True):
            value = skills[model, split]
            shown = max(value, floor)
            full = theme.models[model]
            axes.barh(
                place + offset,
                100 * shown,
                height=0.36,
                color=full if split == "test" else faded(full, theme=theme),
            )
            ends = intervals.get(model) if split == "test" else None
            if ends and value > floor:
                low, high = 100 * max(ends[0], floor), 100 * ends[1]
                axes.hlines(place + offset, low, high, color=theme.ink, linewidth=1.1)
            if shown > value:
                axes.text(100 * shown, place + offset, "◀ ", color=theme.paper, va="center", fontsize=7)
            test = report.test_of(model, split=split)
            text = METRICS["skill"].write(value) + (f"  ({p_text(test.p_value)})" if test and split == "test" else "")
            axes.annotate(
                text,
                (100 * max(shown, ends[1] if ends and value > floor else 0.0, 0.0), place + offset),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=theme.ink if split == "test" else theme.muted,
            )
    axes.set_yticks(range(len(models)), [model_label(model) for model in models], fontsize=9.5, color=theme.ink)
    axes.invert_yaxis()
    left, right = axes.get_xlim()
    axes.set_xlim(left, max(right, 0.0) + 0.22 * (right - left))
    handles = {
        "Validation (the choice is made here)": Patch(color=faded(theme.muted, theme=theme)),
        "Test (scored once)": Patch(color=theme.muted),
    }
    head(figure, f"{report.ticker}: skill against persistence, %", theme=theme, handles=handles)
    return figure


def capital_curves(report: EvalReport, *, model: str, theme: Theme = LIGHT) -> "Figure":
    """The capital of every rule by one model, by drift and by persistence, beside buying and holding.

    Raises:
        ValueError: The report holds no backtest.
    """
    found = report.backtest
    if found is None:
        raise ValueError(f"{report.ticker}: the report holds no backtest")
    rules = list(dict.fromkeys(account.rule for account in found.accounts if account.model))
    lines = -(-len(rules) // 2)
    figure = new_figure(10, 1.0 + 2.9 * lines, theme=theme)
    grid = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    days = np.array(found.dates, dtype="datetime64[D]")
    handles: dict[str, Any] = {}
    for rule, axes in zip(rules, grid.flat, strict=True):
        dress(axes, theme=theme, y_label="capital, start = 1", title=RULE_LABELS[rule])
        held = found.of("buy_and_hold")
        if held is not None:
            (handles[RULE_LABELS["buy_and_hold"]],) = axes.plot(days, held.equity, color=theme.ink, linewidth=1.1)
        for name in dict.fromkeys((PERSISTENCE, DRIFT, model)):
            account = found.of(rule, name)
            if account is not None:
                style = _line_style(name, theme=theme) | {"marker": ""}
                (handles[model_label(name)],) = axes.plot(days, account.equity, **style)
        date_axis(axes)
    title = f"{report.ticker}: what became of the capital, at {found.cost_bps:g} basis points a trade"
    head(figure, title, theme=theme, handles=handles)
    return figure


def has_curves(training_metrics: pd.DataFrame) -> bool:
    """Whether any stage logged a reward or a loss."""
    return bool(len(training_metrics)) and bool(_curves_by_stage(training_metrics))


def learning_curves(training_metrics: pd.DataFrame, *, ticker: str, theme: Theme = LIGHT) -> "Figure":
    """Reward (or loss) and share of valid answers by step of each stage; thin as logged, thick as a running mean.

    Args:
        training_metrics: Columns `stage`, `step`, `reward`, `valid_rate`, `loss`; missing values where a stage has no
            such figure. Stages are drawn in the order of their first row.
        ticker: For the title.
        theme: Colours.

    Raises:
        ValueError: No stage has a reward or a loss.
    """
    panels = _curves_by_stage(training_metrics)
    if not panels:
        raise ValueError(f"{ticker}: the training metrics hold neither a reward nor a loss")
    figure = new_figure(10, 4.6, theme=theme)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex="col", height_ratios=[1.6, 1])
    limits = _common_limits(panels)
    for column, (stage, curves) in enumerate(panels.items()):
        color = theme.models.get(stage, theme.ink)
        main = "reward" if "reward" in curves else "loss"
        for axes, name in zip(grid[:, column], (main, "valid_rate"), strict=True):
            if name not in curves:
                axes.set_axis_off()
                continue
            label = dict(CURVES)[name]
            dress(
                axes,
                theme=theme,
                y_label=f"{label}, %" if name == "valid_rate" else label,
                title=model_label(stage) if name == main else "",
            )
            step, value = curves[name]["step"], curves[name][name] * (100 if name == "valid_rate" else 1)
            axes.plot(step, value, color=color, linewidth=0.9, alpha=0.4)
            axes.plot(step, value.rolling(SMOOTHING, min_periods=1, center=True).mean(), color=color, linewidth=2)
            axes.set_ylim(*limits[name])
        last = grid[1, column] if "valid_rate" in curves else grid[0, column]
        last.set_xlabel("step", color=theme.muted, fontsize=8.5)
        last.tick_params(labelbottom=True)
    head(figure, f"{ticker}: training by step of each stage", theme=theme)
    return figure


def _skill_floor(largest: dict[str, float]) -> float:
    """Where a skill axis ends, so that one hopeless forecaster does not flatten drift and the adapters."""
    telling = [size for model, size in largest.items() if model == DRIFT or model in ADAPTERS]
    return -float(np.clip(2 * max(telling), 0.05, 0.5))


def _curves_by_stage(metrics: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """For each stage with a reward or a loss, the logged steps of each figure; no loss beside a reward.

    GRPO's loss hovers about 0 and tells nothing.
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
    """One range per figure for all stages, so that their heights compare; valid answers in percent."""
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


def _line_style(model: str, *, theme: Theme) -> dict[str, Any]:
    baseline = model in BASELINES
    return {
        "color": theme.models[model],
        "linewidth": 1.4 if baseline else 2,
        "linestyle": "--" if baseline else "-",
        "marker": "" if baseline else "o",
        "markersize": 3.5,
    }
