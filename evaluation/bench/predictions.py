"""Forecasts of the protocol's test windows from a user's CSV or Parquet file, or from our own models."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.evaluation.bench.standings import ProtocolForecast, whole_of
from tickerforge.evaluation.core.contracts import Floats, Ints
from tickerforge.evaluation.core.errors import PredictionsError
from tickerforge.evaluation.core.frames import matrix
from tickerforge.evaluation.core.protocol import HORIZON, Protocol
from tickerforge.evaluation.core.recalibration import PERCENTILES

HORIZON_COLUMNS = tuple(f"h{ahead}" for ahead in range(1, HORIZON + 1))
REQUIRED_COLUMNS = ("ticker", "origin", *HORIZON_COLUMNS)
_NAMED = 5


def read_predictions(path: Path, protocol: Protocol) -> list[ProtocolForecast]:
    """Read the forecasts in a file, one entry per model in it.

    The file has one row per window: `ticker`; `origin`, the last session that the forecast knew (YYYY-MM-DD), which
    must be the origin of a test window; `h1` to `h10`, the adjusted closes expected 1 to 10 sessions later in USD, as
    in the ticker's own price file; and `model`, its name, if the file has several models. Other columns are ignored.

    A distribution has several rows per window, and one more column: `quantile`, with `q05` for the prices that are
    reached with 5 % probability and so on (such as `q05` to `q95`, or 0.05 to 0.95), or `sample`, with the number of a
    path that was drawn independently. The median is then the point forecast. Between quantiles the distribution is
    linear, and it ends at the outer ones. Samples are scored by the fair CRPS, so that their number does not matter.

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
    members = _members(table, path)
    entries = []
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(names == name)
        _check_once(table.iloc[rows], windows[rows], members[rows], path)
        complete = rows[np.isfinite(prices[rows]).all(axis=1)]
        entries.append(
            _entry(str(name), protocol, windows[complete], prices[complete], members[complete], table.columns)
        )
    return entries


def _entry(
    name: str, protocol: Protocol, windows: Ints, prices: Floats, members: Floats, columns: pd.Index
) -> ProtocolForecast:
    """Make the entry of one model from its rows: windows, prices (k, HORIZON), and quantile levels or sample numbers.

    A window without a row has persistence, and no distribution.
    """
    forecast = np.repeat(protocol.origin_price[:, None], HORIZON, axis=1)
    everything = np.ones(len(forecast), dtype=bool)
    order = np.lexsort((members, windows))
    answered, first = np.unique(windows[order], return_index=True)
    silent = np.setdiff1d(np.arange(len(forecast)), answered)
    if not {"quantile", "sample"} & set(columns):
        forecast[windows] = prices
        return ProtocolForecast(name, forecast, asked=everything, unanswered=len(silent))
    counts = np.diff(first, append=len(order))
    groups = []
    for count in np.unique(counts):
        mine, where = answered[counts == count], first[counts == count]
        taken = order[where[:, None] + np.arange(count)]
        drawn = prices[taken]
        if "quantile" in columns:
            drawn = np.stack([_at_levels(each, levels) for each, levels in zip(drawn, members[taken], strict=True)])
        forecast[mine] = np.median(drawn, axis=1)
        groups.append((mine, np.log(drawn / protocol.origin_price[mine, None, None])))
    sampled = "sample" in columns
    whole = whole_of(protocol, groups, independent=sampled, are_paths=sampled)
    return ProtocolForecast(name, forecast, asked=everything, unanswered=len(silent), whole=whole)


def _at_levels(prices: Floats, levels: Floats) -> Floats:
    """Return the percentiles 1 % to 99 % of a distribution from its quantiles (k, HORIZON), shape (99, HORIZON)."""
    ordered = np.sort(prices, axis=0)
    return np.stack([np.interp(PERCENTILES, levels, ordered[:, step]) for step in range(HORIZON)], axis=1)


def _members(table: pd.DataFrame, path: Path) -> Floats:
    """Return the level of each row's quantile or the number of its sample, shape (rows,); 0 without such a column.

    Quantiles are in percent; they are shares if all are below 1 and none is written with a `q`.
    """
    if "quantile" in table and "sample" in table:
        raise PredictionsError(f"{path} has both a column quantile and a column sample: give one of them")
    column = next((name for name in ("quantile", "sample") if name in table), None)
    if column is None:
        return np.zeros(len(table))
    written = table[column].astype(str)
    numbers = pd.to_numeric(written.str.removeprefix("q"), errors="coerce").to_numpy(float)
    if column == "quantile" and (numbers < 1).all() and not written.str.startswith("q").any():
        numbers = 100 * numbers
    wrong = ~np.isfinite(numbers) if column == "sample" else ~((numbers > 0) & (numbers < 100))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        quantile = "a quantile in percent such as q05 or q95, or, in all rows, a share such as 0.05"
        wanted = "a number" if column == "sample" else quantile
        raise PredictionsError(f"{_place(row, path)}, column {column}: {table[column].iloc[row]!r} is not {wanted}")
    return numbers / 100 if column == "quantile" else numbers


def sampled_entry(
    forecasts: pd.DataFrame,
    protocol: Protocol,
    *,
    name: str,
    is_chosen: bool = False,
) -> ProtocolForecast:
    """Read one of our own models' calibrated answers to test windows: to all of them, or to those it was asked for.

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
    whole = whole_of(protocol, _by_members(rows, windows, protocol))
    return ProtocolForecast(name, forecast, asked=asked, unanswered=unanswered, is_chosen=is_chosen, whole=whole)


def _by_members(rows: pd.DataFrame, windows: Ints, protocol: Protocol) -> Iterator[tuple[Ints, Floats]]:
    """Group the windows that have samples by their number."""
    counts = np.array([len(each) for each in rows["samples"]])
    for count in np.unique(counts[counts > 0]):
        mine = counts == count
        prices = np.stack([np.stack(list(each)) for each in rows.loc[mine, "samples"]])
        yield windows[mine], np.log(prices / protocol.origin_price[windows[mine], None, None])


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


def _check_once(rows: pd.DataFrame, windows: np.ndarray, members: Floats, path: Path) -> None:
    again = pd.DataFrame({"window": windows, "member": members}).duplicated().to_numpy()
    if again.any():
        place = int(np.flatnonzero(again)[0])
        row, number = rows.iloc[place], int(rows.index.to_numpy()[place])
        raise PredictionsError(
            f"{_place(number, path)}: a second forecast of {row['ticker']} from {row['origin']:%Y-%m-%d}"
        )
