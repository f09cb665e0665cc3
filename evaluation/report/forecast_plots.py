"""Pictures of forecasts: single windows with the prices that followed, and forecasts along the price series."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import AFTER, Floats
from tickerforge.evaluation.core.frames import matrix
from tickerforge.evaluation.core.labels import model_label
from tickerforge.evaluation.core.panels import Answers, Truth, date_matrix, session_dates
from tickerforge.evaluation.evidence.significance import independent_rows
from tickerforge.evaluation.metrics.accuracy import band
from tickerforge.evaluation.report.theme import (
    INK,
    MODEL_COLORS,
    SPLIT_COLORS,
    date_axis,
    dress,
    head,
    new_figure,
    price_axis,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INNER = 0.5
"""Nominal coverage of the darker part of a fan."""


def forecast_panels(
    windows: pd.DataFrame,
    truth: Truth,
    answers: Answers,
    *,
    free: Answers | None,
    interval: float,
    count: int,
    currency: str = "",
) -> "Figure":
    """Draw single windows: the closes before and after the origin, the fan of a model, and that of a free forecaster.

    Args:
        windows: Windows frame with the histories.
        truth: The split to draw.
        answers: The model to draw.
        free: The free forecaster to compare it with; `None` if the model is that one.
        interval: Nominal coverage of the band.
        count: How many windows, evenly spaced in time; a pool's tickers take turns.
        currency: Code of the prices' currency, if it is known.
    """
    rows = drawn_rows(truth, count=count)
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure(10, 0.9 + 2.4 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    near = windows[np.isin(session_dates(windows["origin"]), truth.origins[rows])]
    keys = zip(near["ticker"], session_dates(near["origin"]), strict=True)
    histories = dict(zip(keys, near["history"], strict=True))
    several = len(set(truth.tickers)) > 1
    (lower, upper), inner = bands(answers, interval=interval), bands(answers, interval=INNER)
    edges = None if free is None else bands(free, interval=interval)
    steps = np.arange(truth.horizon + 1)
    handles: dict[str, Any] = {}
    for place, axes in enumerate(grid.flat):
        if place >= len(rows):
            axes.set_axis_off()
            continue
        row = rows[place]
        ticker, origin = truth.tickers[row], truth.origins[row]
        history = np.asarray(histories[ticker, origin], dtype=float)
        dress(
            axes,
            title=f"{f'{ticker}, ' if several else ''}{pd.Timestamp(origin):%-d %b %Y}",
            x_label="sessions after the origin" if place + columns >= len(rows) else "",
            y_label=_of_prices("adjusted close", currency) if place % columns == 0 else "",
        )
        axes.set_xticks(np.arange(-(len(history) // 5) * 5, truth.horizon + 1, 5))
        axes.tick_params(labelbottom=place + columns >= len(rows))
        color, start = MODEL_COLORS[answers.model], history[-1:]
        known = np.concatenate([history, truth.target[row]])
        handles = {
            "Adj Close": axes.plot(
                np.arange(1 - len(history), truth.horizon + 1),
                known,
                color=INK,
                linewidth=1.3,
                marker="o",
                markersize=2.4,
                zorder=3,
            )[0],
            f"{model_label(answers.model)}: median": axes.plot(
                steps, np.append(start, answers.median[row]), color=color, linewidth=2.2, zorder=4
            )[0],
            f"its {100 * interval:.0f} % band": axes.fill_between(
                steps, np.append(start, lower[row]), np.append(start, upper[row]), color=color, alpha=0.18, linewidth=0
            ),
            f"its {100 * INNER:.0f} % band": axes.fill_between(
                steps, *(np.append(start, edge[row]) for edge in inner), color=color, alpha=0.3, linewidth=0
            ),
        }
        if free is not None and edges is not None:
            handles[f"{model_label(free.model)}: {100 * interval:.0f} % band"] = axes.plot(
                steps, np.append(start, edges[0][row]), steps, np.append(start, edges[1][row]), **_edge_style(free)
            )[0]
    for axes in figure.axes:
        price_axis(axes)
    split = "test" if truth.split == AFTER else truth.split
    head(
        figure,
        f"{truth.ticker}: {len(rows)} {split} windows, forecast and actual prices",
        handles=handles,
    )
    return figure


def _of_prices(label: str, currency: str) -> str:
    return f"{label}, {currency}" if currency else label


def _edge_style(free: Answers) -> dict[str, Any]:
    return {"color": MODEL_COLORS[free.model], "linewidth": 1.4, "linestyle": "--"}


def drawn_rows(truth: Truth, *, count: int) -> list[int]:
    """Return the rows of single windows to draw, evenly spaced in time; a pool's tickers take turns."""
    dates = np.unique(truth.origins)
    chosen = dates[np.unique(np.linspace(0, len(dates) - 1, min(count, len(dates))).round().astype(int))]
    rows = [np.flatnonzero(truth.origins == origin) for origin in chosen]
    return [int(at[place * max(1, len(at) // len(rows)) % len(at)]) for place, at in enumerate(rows)]


def bands(answers: Answers, *, interval: float) -> tuple[Floats, Floats]:
    """Return the lower and upper edge of the forecast band of every window, each (n, h) in USD."""
    lower, upper = np.empty_like(answers.median), np.empty_like(answers.median)
    for rows, samples in answers.ensembles():
        lower[rows], upper[rows] = band(samples, interval=interval)
    return lower, upper


def price_series(
    windows: pd.DataFrame,
    truth: Truth,
    answers: Answers,
    *,
    free: Answers | None,
    interval: float,
    currency: str = "",
) -> "Figure":
    """Draw the whole series with its splits, and below it the test split with forecasts that do not overlap.

    Args:
        windows: Windows frame of one ticker.
        truth: The split to draw.
        answers: The model to draw.
        free: The free forecaster whose band is drawn beside the model's; `None` if the model is that one.
        interval: Nominal coverage of the band.
        currency: As for `forecast_panels`.
    """
    figure = new_figure(10, 6)
    whole, zoom = figure.subplots(2, 1, height_ratios=[1, 1.4])
    for axes, title in (
        (whole, "All sessions; the gaps keep the targets of one split out of the next"),
        (zoom, f"{truth.split.capitalize()} split, one forecast every {truth.horizon} sessions or more"),
    ):
        dress(axes, y_label=_of_prices("Adj Close", currency), title=title)
        date_axis(axes)
    handles: dict[str, Any] = {}
    for split, color in SPLIT_COLORS.items():
        rows = windows[windows["split"] == split]
        if len(rows):
            dates, prices = _known_prices(rows)
            (handles["Adj Close"],) = whole.plot(dates, prices, color=INK, linewidth=1.1)
            handles[split.capitalize()] = whole.axvspan(dates[0], dates[-1], color=color, zorder=0)
    dates, prices = _known_prices(windows[windows["split"] == truth.split])
    zoom.plot(dates, prices, color=INK, linewidth=1.1)
    color = MODEL_COLORS[answers.model]
    lower, upper = bands(answers, interval=interval)
    beside = None if free is None else (_edge_style(free) | {"linewidth": 1}, bands(free, interval=interval))
    for row in independent_rows(truth.positions, horizon=truth.horizon):
        days = np.append(truth.origins[row], truth.target_dates[row])
        start = truth.origin_price[row]
        edges = np.append(start, lower[row]), np.append(start, upper[row])
        cloud = zoom.fill_between(days, *edges, color=color, alpha=0.22, linewidth=0)
        (line,) = zoom.plot(days, np.append(start, answers.median[row]), color=color, linewidth=1.8)
        if beside is not None:
            style, (low, high) = beside
            (dashes, _) = zoom.plot(days, np.append(start, low[row]), days, np.append(start, high[row]), **style)
    for axes in (whole, zoom):
        price_axis(axes)
    handles |= {f"{model_label(answers.model)}: median": line, f"its {100 * interval:.0f} % band": cloud}
    if free is not None:
        handles[f"{model_label(free.model)}: {100 * interval:.0f} % band"] = dashes
    head(figure, f"{truth.ticker}: the series and its forecasts (adjusted close)", handles=handles)
    return figure


def _known_prices(windows: pd.DataFrame) -> tuple[Any, Floats]:
    """Return every session and adjusted close that the windows mention, in time order."""
    dates = np.concatenate([session_dates(windows["origin"]), date_matrix(windows["target_dates"]).ravel()])
    prices = np.concatenate([matrix(windows["history"])[:, -1], matrix(windows["target"]).ravel()])
    days, first = np.unique(dates, return_index=True)
    return days, prices[first]
