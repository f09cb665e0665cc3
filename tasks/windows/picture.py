"""The picture of one ticker's preprocessing: prices with splits and embargo, the windows' extent, and the quality."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tickerforge.evaluation.report.theme import (
    GRID,
    INK,
    MODEL_COLORS,
    MUTED,
    SPLIT_COLORS,
    date_axis,
    dress,
    head,
    new_figure,
    price_axis,
)
from tickerforge.features.atomic import atomic_path
from tickerforge.features.config import FeatureConfig
from tickerforge.features.prices.quality import QualityReport
from tickerforge.features.splits import SPLITS, split_borders
from tickerforge.features.stages import GRPO_2ND, SFT
from tickerforge.tasks.base.disk import os_errors_as_publish_error
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.windows.preprocess import read_bars, read_windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {"train": MUTED, "validation": MODEL_COLORS["drift"], "test": MODEL_COLORS[GRPO_2ND.name]}


def write_picture(
    bars: ArtifactRef, windows: ArtifactRef, quality: QualityReport | None, out_dir: Path, *, config: FeatureConfig
) -> Path:
    """Draw one ticker's preprocessing as `{out_dir}/{STOCK}.png`; the file is whole or absent.

    Raises:
        PublishError: If the folder cannot be written.
    """
    path = out_dir / f"{bars.meta['ticker']}.png"
    figure = picture(read_bars(bars), read_windows(windows), quality, config=config, ticker=str(bars.meta["ticker"]))
    with os_errors_as_publish_error(out_dir, doing=f"drawing {path.name}"):
        out_dir.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, shared=True) as partial:
            figure.savefig(partial, format="png")
    return path


def picture(
    bars: pd.DataFrame, windows: pd.DataFrame, quality: QualityReport | None, *, config: FeatureConfig, ticker: str
) -> "Figure":
    """Three panels over time: adjusted close over the splits, histories and targets, missing and extra sessions.

    Args:
        bars: As `features.prices.bars.read_csv` returns them.
        windows: As `features.windows.build_windows` returns them.
        quality: The report on the bars, if there is one.
        config: Configuration that the windows were cut with.
        ticker: Name of the ticker.
    """
    from matplotlib.patches import Patch

    table = quality.rows_of_table() if quality else []
    figure = new_figure(10, 6.2 + 0.18 * len(table))
    price, spans, days = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 1.5, 0.8 + 0.24 * len(table)])
    dates = bars["date"].to_numpy()
    borders = split_borders(len(bars), config)
    edges = {
        "train": (0, borders.train_end),
        "validation": (borders.train_end, borders.test_start),
        "test": (borders.test_start, len(bars)),
    }
    for split, (first, end) in edges.items():
        given_up = 0 if split == "test" else config.embargo
        price.axvspan(dates[first], dates[end - 1 - given_up], color=SPLIT_COLORS[split], linewidth=0)
        if given_up:
            price.axvspan(dates[end - given_up], dates[end - 1], color=MODEL_COLORS[SFT.name], alpha=0.55, linewidth=0)
    price.plot(dates, bars["adj_close"], color=INK, linewidth=0.9)
    dress(price, y_label="adjusted close")
    price_axis(price)
    for place, split in enumerate(reversed(SPLITS)):
        mine = windows[windows["split"] == split]
        origins = np.searchsorted(dates, mine["origin"].to_numpy())
        knows = dates[max(origins.min() - config.context + 1, 0)], dates[origins.max()]
        targets = dates[origins.min() + 1], dates[origins.max() + config.horizon]
        spans.plot(knows, [place + 0.16] * 2, color=GRID, linewidth=9, solid_capstyle="butt")
        spans.plot(targets, [place - 0.16] * 2, color=LINES[split], linewidth=9, solid_capstyle="butt")
    spans.set_yticks(
        range(len(SPLITS)), [f"{split}, {(windows['split'] == split).sum():,} windows" for split in reversed(SPLITS)]
    )
    spans.set_ylim(-0.6, len(SPLITS) - 0.4)
    dress(spans, title="histories (pale) and targets (dark) of the windows")
    spans.grid(visible=False)
    _draw_quality(days, quality, table)
    date_axis(days)
    handles: dict[str, Patch] = {str(split): Patch(color=SPLIT_COLORS[split]) for split in SPLITS}
    handles[f"embargo, {config.embargo} sessions"] = Patch(color=MODEL_COLORS[SFT.name], alpha=0.55)
    head(figure, f"{ticker}: windows, splits and embargo", handles=handles)
    return figure


def _draw_quality(axes: "Axes", quality: QualityReport | None, table: list[dict[str, str]]) -> None:
    dress(axes, title="data quality")
    axes.grid(visible=False)
    axes.set_ylim(-1 - len(table), 1)
    axes.set_yticks([])
    if quality is None:
        axes.text(0.0, 0.5, "the synthetic market has no report", transform=axes.transAxes, color=MUTED)
        return
    for kind, which, color in (
        ("missing", quality.missing, MODEL_COLORS[SFT.name]),
        ("extra", quality.extra, MODEL_COLORS[GRPO_2ND.name]),
    ):
        if which:
            axes.plot(pd.to_datetime(list(which)), [0.3] * len(which), "|", color=color, markersize=9, label=kind)
    if quality.missing or quality.extra:
        axes.legend(loc="upper right", frameon=False, fontsize=8, labelcolor=INK, ncols=2, borderaxespad=0)
    for line, row in enumerate(table):
        axes.text(
            0.005,
            1 - (line + 1.9) / (2 + len(table)),
            f"{row['Count']:>7}  {row['What']}: {row['Meaning']}",
            transform=axes.transAxes,
            fontsize=8,
            family="monospace",
            color=INK,
            va="center",
        )
