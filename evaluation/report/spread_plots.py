"""Pictures of how sure one can be: the calibration of a model's distribution, and its skill by ticker."""

from typing import TYPE_CHECKING

import numpy as np

from tickerforge.evaluation.core.contracts import PERSISTENCE, EvalReport, Split
from tickerforge.evaluation.core.labels import model_label
from tickerforge.evaluation.metrics.accuracy import skill
from tickerforge.evaluation.metrics.calibration import NOMINAL
from tickerforge.evaluation.report.theme import LIGHT, Theme, dress, faded, head, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def calibration_plot(report: EvalReport, *, model: str, split: Split, theme: Theme = LIGHT) -> "Figure":
    """Where in a model's distribution the prices fell, by tenths, and how much each band held.

    Raises:
        StopIteration: The report has no distribution of that model.
    """
    found = next(each for each in report.calibration if (each.model, each.split) == (model, split))
    figure = new_figure(10, 3.9, theme=theme)
    tenths, bands = figure.subplots(1, 2, width_ratios=[1.5, 1])
    dress(
        tenths,
        theme=theme,
        x_label="tenth of the predictive distribution, lowest first",
        y_label="share of the prices, %",
        title="Probability integral transform: flat is calibrated",
    )
    places = np.arange(1, len(found.shares) + 1)
    tenths.bar(
        places, 100 * np.array(found.shares), width=0.86, color=faded(theme.models[model], theme=theme, share=0.7)
    )
    tenths.axhline(100 / len(places), color=theme.ink, linewidth=1.2, linestyle="--")
    tenths.set_xticks(places)
    dress(
        bands,
        theme=theme,
        x_label="what the band promises, %",
        y_label="what it held, %",
        title="Bands: on the line is calibrated",
    )
    promised = 100 * np.array(NOMINAL)
    bands.plot([0, 100], [0, 100], color=theme.ink, linewidth=1.2, linestyle="--")
    for name in report.models:
        held = [report.value(name, split=split, metric=f"coverage_{share:.0f}") for share in promised]
        if None not in held:
            shown = 100 * np.array(held, dtype=float)
            style = {"linewidth": 2.2, "markersize": 6} if name == model else {"linewidth": 1, "markersize": 3.5}
            bands.plot(promised, shown, marker="o", color=theme.models[name], label=model_label(name), **style)
    bands.set_xlim(40, 100)
    bands.set_ylim(0, 102)
    bands.legend(frameon=False, fontsize=8, labelcolor=theme.ink, loc="lower right")
    head(figure, f"{report.ticker}: calibration of {model_label(model)}, {split} split", theme=theme)
    return figure


def ticker_skills(report: EvalReport, *, model: str, split: Split) -> dict[str, float]:
    """Skill of a model against persistence on each of a pool's tickers, lowest first."""
    rows = {row.ticker: row.values for row in report.tickers if row.split == split}
    found = {ticker: skill(values[model], values[PERSISTENCE]) for ticker, values in rows.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def ticker_plot(report: EvalReport, *, model: str, split: Split, theme: Theme = LIGHT) -> "Figure":
    """Skill on each of a pool's tickers with its 95 % interval, lowest first."""
    skills = ticker_skills(report, model=model, split=split)
    ends = {each.ticker: each for each in report.intervals if each.ticker is not None and each.model == model}
    figure = new_figure(10, 4.3, theme=theme)
    axes = figure.subplots()
    dress(axes, theme=theme, x_label="tickers, lowest skill first", y_label="skill against persistence, %")
    axes.axhline(0, color=theme.models[PERSISTENCE], linewidth=1.4)
    for place, (ticker, value) in enumerate(skills.items()):
        if ticker in ends:
            axes.vlines(
                place, 100 * ends[ticker].low, 100 * ends[ticker].high, color=faded(theme.models[model], theme=theme)
            )
        axes.plot(place, 100 * value, marker="o", markersize=4, color=theme.models[model])
    sizes = [abs(value) for value in skills.values()]
    reach = 100 * float(np.clip(3 * max(sizes), 0.05, 1.0))
    axes.set_ylim(max(axes.get_ylim()[0], -reach), min(axes.get_ylim()[1], reach))
    every = -(-len(skills) // 70)
    axes.set_xticks(
        range(0, len(skills), every), list(skills)[::every], rotation=90, fontsize=7 if len(skills) > 25 else 8.5
    )
    head(figure, f"{report.ticker}: skill of {model_label(model)} by ticker, {split} split", theme=theme)
    return figure
