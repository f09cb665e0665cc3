"""Forecasts of a model: prompts for every window, and its answers as prices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import FORECAST_COLUMNS, Floats
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import Chat, parse, render_all, thoughts_of
from tickerforge.features.units import CLIP, to_prices

MOST_THOUGHTS, LONGEST_THOUGHT = 3, 2000

Generate = Callable[[list[Chat], int], Sequence[Sequence[str]]]


def collect_forecasts(
    windows: pd.DataFrame, generate: Generate, *, model: str, config: FeatureConfig, n_samples: int
) -> pd.DataFrame:
    """Ask a model for every window and read its answers as prices.

    The forecast is the median of the valid answers. It is taken in the units that the model writes, so that answers
    that cancel give exactly no move. Values beyond ±300 model units are clipped, as in prompts. A window without a
    valid answer gets persistence and `n_valid = 0`; its distribution is scored as the random walk's.

    Args:
        windows: Windows frame, or the one row of `latest_window`; its `split` is kept if it has one.
        generate: Takes the prompts and how many answers each should get; returns that many texts per prompt.
        model: Name of the model in the result.
        config: Units, prompt style and horizon.
        n_samples: Answers per window.

    Returns:
        Forecasts frame, one row per window; `median` (horizon,) and `samples` (n_valid, horizon) in USD. The last
        column, `thoughts`, has the text between the think tags of each sample, (n_valid,).

    Raises:
        ForecastsError: `generate` returned another number of prompts or of texts.
    """
    records = [{str(name): value for name, value in row.items()} for row in windows.to_dict("records")]
    texts = generate(render_all(windows, config=config), n_samples)
    if [len(answers) for answers in texts] != [n_samples] * len(records):
        raise ForecastsError(f"model {model}: {len(records)} prompts must get {n_samples} answers each")
    read = [_read(record, answers, config=config) for record, answers in zip(records, texts, strict=True)]
    frame = windows[[column for column in ("ticker", "origin", "split") if column in windows]].assign(
        model=model,
        median=pd.Series([median.tolist() for median, _, _ in read], index=windows.index, dtype=object),
        samples=pd.Series([valid.tolist() for _, valid, _ in read], index=windows.index, dtype=object),
        n_samples=n_samples,
        n_valid=[len(valid) for _, valid, _ in read],
        thoughts=pd.Series([thoughts for _, _, thoughts in read], index=windows.index, dtype=object),
    )
    columns = [column for column in (*FORECAST_COLUMNS, "thoughts") if column in frame]
    return frame[columns].reset_index(drop=True)


def nearest_thoughts(thoughts: Sequence[str], samples: Floats, median: Floats) -> tuple[str, ...]:
    """Return different texts that a model wrote before its answers, those of the answers nearest to the median first.

    Args:
        thoughts: One text per sample.
        samples: USD, shape (m, horizon).
        median: USD, shape (horizon,).

    Returns:
        At most `MOST_THOUGHTS` texts of at most `LONGEST_THOUGHT` characters; empty if the model wrote nothing.
    """
    if not any(thoughts):
        return ()
    order = np.argsort(np.abs(np.log(samples / median)).mean(axis=1), kind="stable")
    texts = (thoughts[int(place)].strip()[:LONGEST_THOUGHT] for place in order)
    return tuple(dict.fromkeys(text for text in texts if text))[:MOST_THOUGHTS]


def _read(
    record: Mapping[str, Any], answers: Sequence[str], *, config: FeatureConfig
) -> tuple[Floats, Floats, list[str]]:
    """Return median (h,) and valid samples (m, h) of one window, in USD, and the thoughts of these samples (m,)."""
    valid = [(values, text) for text in answers if (values := parse(text, horizon=config.horizon)) is not None]
    written = np.array([values for values, _ in valid], dtype=float).reshape(-1, config.horizon)
    origin_price = float(record["history"][-1])

    def prices(values: Floats) -> Floats:
        if config.units == "train_standard":
            return np.asarray(record["train_mean"] + values * record["train_std"])
        return to_prices(np.clip(values, -CLIP, CLIP), origin_price=origin_price, sigma=record["sigma"])

    possible = np.all(prices(written) > 0, axis=1)
    written = written[possible]
    thoughts = [thoughts_of(text) for (_, text), kept in zip(valid, possible, strict=True) if kept]
    if not len(written):
        return np.full(config.horizon, origin_price), np.empty((0, config.horizon)), []
    return prices(np.median(written, axis=0)), prices(written), thoughts
