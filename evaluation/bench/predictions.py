"""Forecasts of the protocol's test windows from a user's CSV or Parquet file, or from our own models."""

from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.evaluation.bench.standings import ProtocolForecast
from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import PredictionsError
from tickerforge.evaluation.core.panels import matrix
from tickerforge.evaluation.core.protocol import HORIZON, Protocol

HORIZON_COLUMNS = tuple(f"h{ahead}" for ahead in range(1, HORIZON + 1))
REQUIRED_COLUMNS = ("ticker", "origin", *HORIZON_COLUMNS)
_NAMED = 5


def read_predictions(path: Path, protocol: Protocol) -> list[ProtocolForecast]:
    """Read the forecasts in a file, one entry per model in it.

    The file has one row per window: `ticker`; `origin`, the last session that the forecast knew (YYYY-MM-DD), which
    must be the origin of a test window; `h1` to `h10`, the adjusted closes expected 1 to 10 sessions later in USD, as
    in the ticker's own price file; and `model`, its name, if the file has several models. Other columns are ignored.

    A test window without a row, or with an empty price, is forecast as persistence and counted as unanswered, so
    leaving out hard windows gains nothing.

    Args:
        path: A `.csv` or `.parquet` file.
        protocol: The test windows.

    Raises:
        PredictionsError: The file cannot be read or lacks a column; or a row is not about a test window, repeats a
            window, or has a price that is not a positive number. The message names file, row and value.
    """
    table = _table(path)
    if missing := [column for column in REQUIRED_COLUMNS if column not in table]:
        raise PredictionsError(
            f"{path} lacks the columns {', '.join(missing)}: a row has ticker, origin (the last session known) and the "
            f"prices {HORIZON_COLUMNS[0]} to {HORIZON_COLUMNS[-1]} in USD"
        )
    if table.empty:
        raise PredictionsError(f"{path} has no rows: give one for each test window")
    table["ticker"] = table["ticker"].astype(str)
    table["origin"] = _origins(table["origin"], path)
    prices = _prices(table, path)
    windows = _windows(table, protocol, path)
    names = table["model"].astype(str).to_numpy() if "model" in table else np.full(len(table), path.stem)
    entries = []
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(names == name)
        _check_once(table.iloc[rows], windows[rows], path)
        forecast = np.repeat(protocol.origin_price[:, None], HORIZON, axis=1)
        whole = rows[np.isfinite(prices[rows]).all(axis=1)]
        forecast[windows[whole]] = prices[whole]
        everything = np.ones(len(forecast), dtype=bool)
        entries.append(ProtocolForecast(str(name), forecast, asked=everything, unanswered=len(forecast) - len(whole)))
    return entries


def sampled_entry(
    forecasts: pd.DataFrame, protocol: Protocol, *, name: str, is_chosen: bool = False
) -> ProtocolForecast:
    """Read one of our own models' answers to test windows: to all of them, or to those it was asked for.

    Args:
        forecasts: Forecasts frame of one model; splits other than test are ignored.
        protocol: The test windows.
        name: Its name in the table.
        is_chosen: Whether validation chose it.

    Raises:
        PredictionsError: A test window in `forecasts` is not in the protocol.
    """
    rows = forecasts[forecasts["split"] == "test"]
    windows = protocol.places_of(rows)
    if (windows < 0).any():
        row = rows.iloc[int(np.flatnonzero(windows < 0)[0])]
        raise PredictionsError(
            f"{name}: {row['ticker']} at {row['origin']:%Y-%m-%d} is not a test window of the protocol"
        )
    forecast = np.full((len(protocol.place), HORIZON), np.nan)
    forecast[windows] = matrix(rows["median"])
    asked = np.zeros(len(forecast), dtype=bool)
    asked[windows] = True
    unanswered = int((rows["n_valid"] == 0).sum())
    return ProtocolForecast(name, forecast, asked=asked, unanswered=unanswered, is_chosen=is_chosen)


def _table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        # As text: "NA" and "TRUE" are tickers.
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise PredictionsError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    except ValueError as error:
        # pandas and pyarrow raise ValueErrors for malformed files.
        raise PredictionsError(f"{path} is neither a CSV file nor a .parquet file: {error}") from error


def _place(row: int, path: Path) -> str:
    """Name a row; in a CSV file as a text editor numbers its lines."""
    return f"{path}, row {row + 2 if path.suffix.lower() != '.parquet' else row}"


def _origins(column: pd.Series, path: Path) -> pd.Series:
    dates = pd.to_datetime(column, errors="coerce", format=None if column.dtype != object else "%Y-%m-%d")
    if dates.isna().any():
        row = int(np.flatnonzero(dates.isna())[0])
        raise PredictionsError(
            f"{_place(row, path)}, column origin: {column.iloc[row]!r} is not a date like 2016-09-01"
        )
    return dates


def _prices(table: pd.DataFrame, path: Path) -> Floats:
    columns = []
    for name in HORIZON_COLUMNS:
        written = table[name].replace("", np.nan)
        numbers = pd.to_numeric(written, errors="coerce").to_numpy(float)
        wrong = np.flatnonzero((np.isnan(numbers) & written.notna().to_numpy()) | (numbers <= 0) | np.isinf(numbers))
        if len(wrong):
            row = int(wrong[0])
            raise PredictionsError(
                f"{_place(row, path)}, column {name}: {table[name].iloc[row]!r} is not a positive price in USD; leave "
                "the field empty if there is no forecast"
            )
        columns.append(numbers)
    return np.stack(columns, axis=1)


def _windows(table: pd.DataFrame, protocol: Protocol, path: Path) -> np.ndarray:
    """Return the number of each row's window."""
    if unknown := sorted(set(table["ticker"]) - set(protocol.tickers)):
        raise PredictionsError(
            f"{path} forecasts {', '.join(unknown[:_NAMED])}{' and others' if len(unknown) > _NAMED else ''}, but "
            "there are no prices of these tickers: give a folder that has them, or remove these rows"
        )
    windows = protocol.places_of(table)
    if (windows < 0).any():
        row = int(np.flatnonzero(windows < 0)[0])
        ticker, origin = table["ticker"].iloc[row], table["origin"].iloc[row]
        mine = protocol.origins[protocol.place == protocol.tickers.index(ticker)]
        raise PredictionsError(
            f"{_place(row, path)}: {origin:%Y-%m-%d} is not the origin of a test window of {ticker}; its origins are "
            f"the sessions from {mine[0]} to {mine[-1]}"
        )
    return windows


def _check_once(rows: pd.DataFrame, windows: np.ndarray, path: Path) -> None:
    again = pd.Series(windows).duplicated().to_numpy()
    if again.any():
        place = int(np.flatnonzero(again)[0])
        row, number = rows.iloc[place], int(rows.index.to_numpy()[place])
        raise PredictionsError(
            f"{_place(number, path)}: a second forecast of {row['ticker']} from {row['origin']:%Y-%m-%d}"
        )
