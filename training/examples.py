"""Training examples made from windows: the prompt, and the target in the units that the model writes."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import render_all
from tickerforge.features.units import UNITS_PER_SIGMA, to_model_units
from tickerforge.training.contracts import Example


def window_id(row: Mapping[str, Any]) -> str:
    """Return a window's name: ticker and origin, for example `AAPL:2016-03-01`."""
    return f"{row['ticker']}:{pd.Timestamp(row['origin']).date()}"


def build_examples(windows: pd.DataFrame, *, config: FeatureConfig) -> list[Example]:
    """Make one example per window, in the order of the frame.

    Args:
        windows: Rows of the windows frame, with targets in USD.
        config: Units and prompt style.

    Returns:
        Examples with targets in model units, or with `units="train_standard"` in z-scores of the train split.
    """
    examples = []
    prompts = render_all(windows, config=config)
    for row, prompt in zip(cast(list[dict[str, Any]], windows.to_dict("records")), prompts, strict=True):
        prices = np.asarray(row["target"], float)
        if config.units == "train_standard":
            target = (prices - row["train_mean"]) / row["train_std"]
            last_close = (row["history"][-1] - row["train_mean"]) / row["train_std"]
        else:
            last_close = 0.0
            target = to_model_units(prices, origin_price=row["history"][-1], sigma=row["sigma"])
        examples.append(
            Example(
                window_id=window_id(row),
                ticker=str(row["ticker"]),
                origin=pd.Timestamp(row["origin"]).date(),
                prompt=prompt,
                target=tuple(float(value) for value in target),
                last_close=float(last_close),
            )
        )
    return examples


def unit_of_sigma(windows: pd.DataFrame, *, config: FeatureConfig) -> float:
    """Return the size of one daily standard deviation in the units of the targets.

    This is 10 in model units; with `units="train_standard"`, the median of ``σ · p_origin / train_std`` over windows.
    """
    if config.units == "sigma":
        return UNITS_PER_SIGMA
    origin_price = windows["history"].map(lambda history: history[-1])
    return float(np.median(windows["sigma"] * origin_price / windows["train_std"]))
