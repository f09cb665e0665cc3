"""The forecast of the next sessions: latest bars in, median and band of prices out."""

from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.features.config import FeatureConfig
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.prices.sessions import AUTO, next_sessions
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import OnProgress

INTERVAL = 0.8


def forecast_next(
    bars: pd.DataFrame,
    *,
    ticker: str,
    base_model: str,
    adapter: Path | None,
    features: FeatureConfig,
    training: TrainingConfig,
    seed: int,
    exchange: str = AUTO,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Forecast the next `features.horizon` sessions after the last bar.

    Args:
        bars: Columns `date open high low close adj_close volume`, USD; checked by the rules of
            `features.prices.bars.read_csv`.
        ticker: Name in error messages.
        base_model: Hugging Face name or folder.
        adapter: PEFT folder, or `None` for the bare base model.
        features: Settings of windows and prompts that the adapter was trained with.
        training: Sampling settings, backend and lengths.
        seed: Seed of the sampling; the same seed and bars give the same forecast.
        exchange: Calendar of the next sessions, as in `tasks.prices.sessions.next_sessions`.
        on_progress: Called with the number of answers drawn.

    Returns:
        `horizon` rows: `date` (datetime64[s]), `median`, `lower`, `upper` (USD; bounds of the central 80 %). If no
        answer was valid, all three are the last close.

    Raises:
        FeaturesError: If the bars are not acceptable or too few.
        MarketDataError: If the sessions of the exchange are unknown.
        TrainingError: If the model or the adapter cannot be used.
    """
    from tickerforge.evaluation.core.forecasts import collect_forecasts
    from tickerforge.features.prices.bars import validate_frame
    from tickerforge.features.windows import latest_window
    from tickerforge.training.stages import answer_generator

    checked = validate_frame(bars, source=ticker)
    window = latest_window(checked, ticker=ticker, config=features)
    generate = answer_generator(
        base_model=base_model,
        adapter=adapter,
        config=training,
        horizon=features.horizon,
        seed=seed,
        on_progress=on_progress,
    )
    answers = collect_forecasts(
        window, generate, model="forecast", config=features, n_samples=training.sampling.samples
    ).iloc[0]
    median = np.asarray(answers["median"], float)
    samples = np.asarray(answers["samples"], float).reshape(-1, features.horizon)
    if not len(samples):
        run_logger(__name__).warning(
            "%s: none of %d answers was valid, so the forecast is the last close", ticker, training.sampling.samples
        )
    lower, upper = forecast_band(samples) if len(samples) else (median, median)
    dates = next_sessions(checked["date"], count=features.horizon, ticker=ticker, exchange=exchange)
    return pd.DataFrame({"date": dates, "median": median, "lower": lower, "upper": upper})


def forecast_band(samples: Floats) -> tuple[Floats, Floats]:
    """Return the bounds of the central 80 % of sampled prices, the band whose coverage the comparison reports.

    Args:
        samples: USD, shape (n_samples, horizon), at least one sample.

    Returns:
        Lower and upper bounds in USD, each of shape (horizon,).
    """
    from tickerforge.evaluation.metrics.accuracy import band

    return band(samples, interval=INTERVAL)
