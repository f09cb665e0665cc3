"""The look of the pictures, on light and on dark paper; every forecaster keeps its own colour throughout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tickerforge.features.stages import GRPO_1ST, GRPO_2ND, SFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """One set of colours, told apart by readers with any of the common colour-vision deficiencies."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    splits: dict[str, str]
    models: dict[str, str]


# Hues after Okabe and Ito (2008), "Color Universal Design"; baselines are greys and browns, drawn dashed.
LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1f2430",
    muted="#6a7180",
    grid="#e6e8ed",
    splits={"train": "#eceef3", "validation": "#fdf1dc", "test": "#e3effa"},
    models={
        "persistence": "#6a7180",
        "drift": "#b07a1e",
        "window_mean": "#b66d98",
        "base": "#4ba3d8",
        "pooled": "#7a5195",
        GRPO_1ST.name: "#00906a",
        SFT.name: "#d05a00",
        GRPO_2ND.name: "#0064a8",
        "champion": "#1f2430",
    },
)
DARK = Theme(
    name="dark",
    paper="#161a22",
    ink="#e8eaf0",
    muted="#9aa3b4",
    grid="#2a303c",
    splits={"train": "#242b38", "validation": "#33291a", "test": "#182a3d"},
    models={
        "persistence": "#a3abba",
        "drift": "#d9a441",
        "window_mean": "#d99bc2",
        "base": "#8ccbf0",
        "pooled": "#b79be0",
        GRPO_1ST.name: "#2fc79c",
        SFT.name: "#ff8c3b",
        GRPO_2ND.name: "#5aaef0",
        "champion": "#f2f3f7",
    },
)


def new_figure(width: float, height: float, *, theme: Theme) -> "Figure":
    """An empty figure, in inches; it belongs to no window and no global state, so threads may draw at once."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=144, facecolor=theme.paper)


def dress(axes: "Axes", *, theme: Theme, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Calm axes: no box, a pale horizontal grid, quiet labels."""
    axes.set_facecolor(theme.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.grid(visible=True, axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelsize=8.5, length=0)
    axes.margins(x=0.02)
    if x_label:
        axes.set_xlabel(x_label, color=theme.muted, fontsize=8.5)
    if y_label:
        axes.set_ylabel(y_label, color=theme.muted, fontsize=8.5)
    if title:
        axes.set_title(title, fontsize=9.5, color=theme.ink, loc="left", pad=6)


def head(figure: "Figure", title: str, *, theme: Theme, handles: Mapping[str, Any] | None = None) -> None:
    """A title at the left and, below it, one legend for the whole figure; the axes get the room that is left."""
    height = figure.get_figheight()
    figure.text(0.008, 1 - 0.09 / height, title, ha="left", va="top", fontsize=11.5, weight="bold", color=theme.ink)
    taken = 0.42
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="upper left",
            bbox_to_anchor=(0.004, 1 - 0.34 / height),
            ncols=len(handles),
            frameon=False,
            fontsize=8.5,
            labelcolor=theme.ink,
            handlelength=1.8,
            columnspacing=1.4,
            borderaxespad=0.0,
        ).set_in_layout(False)
        taken = 0.72
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - taken / height), h_pad=0.06, w_pad=0.06)


def faded(color: str, *, theme: Theme, share: float = 0.45) -> tuple[float, float, float]:
    """`share` of a colour over the paper, opaque."""
    from matplotlib.colors import to_rgb

    (red, green, blue), paper = to_rgb(color), to_rgb(theme.paper)
    mixed = [share * part + (1 - share) * ground for part, ground in zip((red, green, blue), paper, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def price_axis(axes: "Axes") -> None:
    """Thousands are set apart where prices have five digits or more."""
    if axes.get_ylim()[1] >= 10_000:
        axes.yaxis.set_major_formatter("{x:,.0f}")


def date_axis(axes: "Axes") -> None:
    """Dates written as briefly as they can be."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
