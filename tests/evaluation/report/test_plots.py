"""Pictures: they draw their data, are readable on light and on dark paper, and cope with odd sizes."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb

from evaluation_frames import forecasts_of, market_windows
from tickerforge.evaluation.comparison.compare import compare, select_windows
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import MODELS, EvalReport
from tickerforge.evaluation.core.labels import model_label
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, session_calendar, truth_of
from tickerforge.evaluation.report.forecast_plots import bands, forecast_panels, price_series
from tickerforge.evaluation.report.score_plots import crps_by_horizon, has_curves, learning_curves, skill_bars
from tickerforge.evaluation.report.theme import DARK_FILTER, GRID, INK, MODEL_COLORS, MUTED, PAPER, head, new_figure

CONFIG = EvaluationConfig(max_windows=40)
Drawn = tuple[pd.DataFrame, EvalReport, Truth, Answers, Answers]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    windows, train = market_windows()
    forecasts = forecasts_of(windows, train, knowledge={"base": -0.2, "sft": 0.05}, config=CONFIG)
    truth = truth_of(select_windows(windows, config=CONFIG), split="test", calendar=session_calendar(windows))
    report = compare(windows, forecasts, config=CONFIG)
    answers, free = (answers_of(forecasts, model=model, truth=truth) for model in ("sft", "random_walk_har"))
    return windows, report, truth, answers, free


@pytest.mark.parametrize("count", [1, 4, 12])
def test_each_panel_shows_the_closes_the_median_and_both_fans_of_its_window(drawn: Drawn, count: int) -> None:
    windows, _, truth, answers, free = drawn
    figure = forecast_panels(windows, truth, answers, free=free, interval=0.8, count=count)
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == count
    last = panels[-1].lines
    closes, median, *edges = (np.asarray(line.get_ydata(), dtype=float) for line in last)
    row = -1 if count > 1 else 0
    np.testing.assert_allclose(closes[-10:], truth.target[row])
    np.testing.assert_allclose(median[1:], answers.median[row])
    np.testing.assert_allclose([edge[1:] for edge in edges], [edge[row] for edge in bands(free, interval=0.8)])
    assert {edge[0] for edge in edges} == {closes[-11]}
    outer, inner = (np.ptp(fan.get_paths()[0].vertices[:, 1]) for fan in panels[-1].collections)
    assert inner < outer


def test_the_drawn_band_is_ordered_and_finite(drawn: Drawn) -> None:
    lower, upper = bands(drawn[3], interval=0.8)
    assert (lower < upper).all()
    assert np.isfinite(lower).all()
    assert np.isfinite(upper).all()


def test_every_picture_is_drawn_on_the_paper(drawn: Drawn) -> None:
    windows, report, truth, answers, free = drawn
    paper = to_rgb(PAPER)
    for figure in (
        forecast_panels(windows, truth, answers, free=free, interval=0.8, count=1),
        price_series(windows, truth, answers, free=free, interval=0.8),
        crps_by_horizon(report),
        skill_bars(report),
    ):
        assert figure.get_facecolor()[:3] == paper
        assert all(axes.get_facecolor()[:3] == paper for axes in figure.axes)


def on_dark_paper(color: str) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.array(DARK_FILTER) @ [*to_rgb(color), 1.0], 0, 1)
    return red, green, blue


def contrast(color: tuple[float, float, float], paper: tuple[float, float, float]) -> float:
    """Contrast ratio of two colours (WCAG 2.1): 1 is invisible, 21 is black on white."""
    channels = np.array([color, paper])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((light + 0.05) / (dark + 0.05))


def test_every_model_has_its_own_readable_colour_on_light_and_on_dark_paper() -> None:
    assert set(MODEL_COLORS) == set(MODELS)
    dark = {model: on_dark_paper(color) for model, color in MODEL_COLORS.items()}
    for colors in (MODEL_COLORS.values(), map(to_hex, dark.values())):
        assert len(set(colors)) == len(MODELS)
    assert to_hex(on_dark_paper(PAPER)) == "#161a22"
    assert min(contrast(to_rgb(color), to_rgb(PAPER)) for color in MODEL_COLORS.values()) > 2.7
    assert min(contrast(color, on_dark_paper(PAPER)) for color in dark.values()) > 4
    for color, least in ((INK, 14), (MUTED, 4.5), (GRID, 1.15)):
        assert contrast(to_rgb(color), to_rgb(PAPER)) > least
        assert contrast(on_dark_paper(color), on_dark_paper(PAPER)) > least


def test_the_legend_of_all_forecasters_fits_into_the_figure() -> None:
    figure = new_figure(10, 4)
    axes = figure.subplots()
    handles = {model_label(model): axes.plot([0, 1], marker="o")[0] for model in MODELS}
    head(figure, "DEMO", handles=handles)
    FigureCanvasAgg(figure).draw()
    assert figure.legends[0].get_window_extent().x1 < figure.bbox.x1


def test_crps_by_horizon_draws_one_line_per_distribution_and_the_interval_of_the_chosen_one(drawn: Drawn) -> None:
    _, report, *_ = drawn
    absolute, relative = crps_by_horizon(report).axes
    distributions = set(report.models) - {"persistence", "window_mean"}
    assert len(absolute.lines) == len(relative.lines) == len(distributions)
    np.testing.assert_allclose(relative.lines[0].get_ydata(), 0)
    assert len(relative.collections) == 1


def test_the_skill_of_a_hopeless_model_is_cut_but_written_in_full(drawn: Drawn) -> None:
    _, report, *_ = drawn
    axes = skill_bars(report).axes[0]
    base = report.value("base", split="test", metric="crps_skill")
    assert base is not None
    assert base < -0.1
    assert axes.get_xlim()[0] > 100 * base
    assert any(text.get_text().startswith(f"−{-100 * base:.1f} %") for text in axes.texts)


def test_learning_curves_skip_what_a_stage_did_not_log() -> None:
    logged = pd.DataFrame(
        {
            "stage": ["grpo_1st"] * 3 + ["sft"] * 2 + ["sft_data"],
            "step": [1, 2, 3, 1, 2, 1],
            "reward": [0.1, 0.2, 0.3, np.nan, np.nan, np.nan],
            "valid_rate": [0.9, 0.95, 1.0, np.nan, np.nan, 0.9],
            "loss": [0.5, 0.4, 0.3, 2.0, 1.0, np.nan],
        }
    )
    figure = learning_curves(logged, ticker="DEMO")
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")] == ["First GRPO", "SFT"]
    assert sum(bool(axes.lines) for axes in figure.axes) == 3
    only_sampling = logged[logged["stage"] == "sft_data"]
    assert has_curves(logged)
    assert not has_curves(only_sampling)
    assert not has_curves(only_sampling.head(0))
    with pytest.raises(ValueError, match="neither a reward nor a loss"):
        learning_curves(only_sampling, ticker="DEMO")
