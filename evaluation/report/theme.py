"""The look of the pictures: colours, axes, titles; and the filter that shows the same pictures on dark paper."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tickerforge.evaluation.core.contracts import (
    BASE,
    CURRENT_CHAMPION,
    DRIFT,
    PERSISTENCE,
    POOLED,
    RANDOM_WALK,
    RANDOM_WALK_HAR,
    WINDOW_MEAN,
)
from tickerforge.features.stages import GRPO_1ST, GRPO_2ND, SFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, GRID = "#ffffff", "#1f2430", "#6a7180", "#e6e8ed"
SPLIT_COLORS = {"train": "#eceef3", "validation": "#fdf1dc", "test": "#e3effa"}
# Hues after Okabe and Ito (2008), "Color Universal Design"; baselines are greys and browns, drawn dashed.
MODEL_COLORS = {
    PERSISTENCE: MUTED,
    RANDOM_WALK: "#8c8c5a",
    RANDOM_WALK_HAR: "#7a5c43",
    DRIFT: "#b07a1e",
    WINDOW_MEAN: "#b66d98",
    BASE: "#4ba3d8",
    POOLED: "#7a5195",
    GRPO_1ST.name: "#00906a",
    SFT.name: "#d05a00",
    GRPO_2ND.name: "#0064a8",
    CURRENT_CHAMPION: INK,
}

# Red, green and blue of dark paper from red, green, blue and 1 of light paper. The filter is affine, so a blend of two
# colours becomes the blend of their dark colours: the filtered picture is the picture drawn in dark colours. The
# coefficients are a least-squares fit to hand-picked dark colours; PAPER becomes #161a22 and INK #e8eaf0.
DARK_FILTER = (
    (0.576, -1.362, -0.197, 1.069),
    (-0.354, -0.385, -0.214, 1.055),
    (-0.314, -1.373, 0.797, 1.023),
)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, sizes in inches. It belongs to no global state, so several threads can draw at once."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=144, facecolor=PAPER)


def dress(axes: "Axes", *, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Style axes: no box, a pale horizontal grid, quiet labels."""
    axes.set_facecolor(PAPER)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.margins(x=0.02)
    if x_label:
        axes.set_xlabel(x_label, color=MUTED, fontsize=8.5)
    if y_label:
        axes.set_ylabel(y_label, color=MUTED, fontsize=8.5)
    if title:
        axes.set_title(title, fontsize=9.5, color=INK, loc="left", pad=6)


def head(figure: "Figure", title: str, *, handles: Mapping[str, Any] | None = None) -> None:
    """Add a title at the left and one legend below it; the axes use the remaining room."""
    height = figure.get_figheight()
    figure.text(0.008, 1 - 0.09 / height, title, ha="left", va="top", fontsize=11.5, weight="bold", color=INK)
    taken = 0.42
    if handles:
        # Nine forecasters fill the width only in smaller letters, and more only in two rows.
        crowded = len(handles) > 8
        columns = len(handles) if len(handles) < 10 else -(-len(handles) // 2)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="upper left",
            bbox_to_anchor=(0.004, 1 - 0.34 / height),
            ncols=columns,
            frameon=False,
            fontsize=7.5 if crowded else 8.5,
            labelcolor=INK,
            handlelength=1.8,
            columnspacing=1.1 if crowded else 1.4,
            borderaxespad=0.0,
        ).set_in_layout(False)
        taken = 0.72 if columns == len(handles) else 0.9
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - taken / height), h_pad=0.06, w_pad=0.06)


def faded(color: str, *, share: float = 0.45) -> tuple[float, float, float]:
    """Blend `share` of a colour into the paper, opaque."""
    from matplotlib.colors import to_rgb

    (red, green, blue), paper = to_rgb(color), to_rgb(PAPER)
    mixed = [share * part + (1 - share) * ground for part, ground in zip((red, green, blue), paper, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def price_axis(axes: "Axes") -> None:
    """Write plain prices: thousands separated, and neither an offset nor powers of ten for the small ones."""
    if axes.get_ylim()[1] >= 10_000:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)


def date_axis(axes: "Axes") -> None:
    """Write dates as briefly as possible."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
