"""Live scores: issued forecasts against the prices that have followed, with the measure of the comparison."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.evaluation.core.labels import p_text, percent
from tickerforge.evaluation.core.panels import Dates
from tickerforge.evaluation.evidence.significance import diebold_mariano, independent_rows
from tickerforge.evaluation.metrics.accuracy import crps, scaled_errors, skill
from tickerforge.features.config import FrozenModel

ISSUED_COLUMNS = (
    *("ticker", "version", "origin", "issued_at", "late", "origin_close", "sigma"),
    *("interval", "target_dates", "median", "lower", "upper", "provisional_dates"),
)
DISTRIBUTION_COLUMNS = ("quantiles", "reference")


class LiveWindow(FrozenModel):
    """One issued forecast whose target prices are all known.

    `position` is the session number of the origin; `loss` and `persistence` are mean squared errors over the path in
    daily variances; `coverage` is the share of the prices inside the band, missing without a band. `crps` and
    `reference` are the CRPS of the issued quantiles and of the random walk's, in daily standard deviations, missing
    without quantiles. `dates` are the sessions with prices, and `moves` these prices over the one at the origin.
    """

    origin: date
    version: int
    position: int
    loss: float
    persistence: float
    coverage: float | None
    crps: float | None
    reference: float | None
    dates: tuple[date, ...]
    moves: tuple[float, ...]


class LiveStep(FrozenModel):
    """All forecasts whose price `horizon` sessions ahead is known; errors in daily variances."""

    horizon: int
    forecasts: int
    scaled_mse: float
    persistence: float
    coverage: float | None


class LiveScores(FrozenModel):
    """The scores of one ticker's issued forecasts. Errors in daily variances; missing without a complete forecast.

    `skill` is also missing if no price moved, so that persistence made no error.

    Of the `issued` forecasts, these are not scored: `late` (issued when the first price was known), `repeated` (another
    version was issued for the same origin before), `unplaced` (the data have no price at the origin) and `outdated`
    (another horizon than the latest forecast). `pending` forecasts still lack prices. `missing_dates` are planned
    sessions that passed without a price. `windows` are the complete forecasts, of which `independent` share no price;
    `steps` also count incomplete ones.

    `distributions` of the `windows` were issued with quantiles. `crps_skill` is 1 − their CRPS / the random walk's;
    `crps_p` and `crps_note` are those of `diebold_mariano` on the CRPS.
    """

    ticker: str
    horizon: int
    interval: float
    issued: int
    late: int
    repeated: int
    unplaced: int
    outdated: int
    pending: int
    missing_dates: tuple[date, ...]
    independent: int
    scaled_mse: float | None
    persistence: float | None
    skill: float | None
    coverage: float | None
    p_value: float
    note: str
    distributions: int
    crps_skill: float | None
    crps_p: float
    crps_note: str
    windows: tuple[LiveWindow, ...]
    steps: tuple[LiveStep, ...]
    text: str


def score_live(issued: pd.DataFrame, closes: pd.Series, *, ticker: str) -> LiveScores:
    """Score issued forecasts by the prices that have followed.

    The k-th value of a forecast is compared with the k-th price after its origin, as in the comparison. A session
    without a price (a halt, an unplanned closure) moves the rest of the path to later days, so that hard forecasts stay
    in the figures; such sessions are listed. Forecast and price are compared as moves from the origin: the forecast's
    from the close that it knew, the market's within `closes` only, because a dividend or split rescales all older
    adjusted closes.

    The figures use complete paths only: a squared error grows with the distance, so an incomplete path would look
    better than the comparison's. `steps` uses all known prices, distance by distance. Forecasts issued daily overlap;
    the p-value is that of `diebold_mariano` against persistence, and 1 if too few are independent.

    Args:
        issued: One row per forecast, columns `ISSUED_COLUMNS`: `ticker`; `version` of the model; `origin` (date);
            `issued_at` (instant); `late` (issued when the first price was known); `origin_close` (USD, as known then);
            `sigma` (daily log-return standard deviation at the origin); `interval` (nominal coverage); `target_dates`,
            `median`, `lower`, `upper` (each of shape `(horizon,)`; USD; no bounds without a
            band); `provisional_dates`, those target dates that were a guess. Optional, `DISTRIBUTION_COLUMNS`:
            `quantiles` and those of the random walk, `reference`, each `(horizon, m)`, USD, or empty. No rows if
            nothing has been issued yet.
        closes: Adjusted closes (USD) up to now, indexed by session, ascending.
        ticker: The one ticker of all rows.

    Raises:
        ForecastsError: A column is missing, or a row is of another ticker, of wrong shape, or not positive and finite.
    """
    rows = _checked(issued, ticker=ticker)
    on_time = rows[~rows["late"].astype(bool)].sort_values(["origin", "issued_at"], kind="stable")
    first = on_time.drop_duplicates("origin")
    horizon = len(first["median"].iloc[-1]) if len(first) else 0
    current = first[[len(median) == horizon for median in first["median"]]]
    sessions: Dates = closes.index.to_numpy().astype("datetime64[D]")
    prices = closes.to_numpy(float)
    windows: list[LiveWindow] = []
    arrived: list[tuple[Floats, Floats, Floats]] = []
    unplaced = 0
    for row in current.to_dict("records"):
        origin = np.datetime64(row["origin"], "D")
        position = int(np.searchsorted(sessions, origin))
        if position == len(sessions) or sessions[position] != origin:
            unplaced += position < len(sessions)
            continue
        after = slice(position + 1, position + 1 + horizon)
        step = _errors(row, prices[after] / prices[position])
        arrived.append(step)
        if len(step[0]) == horizon:
            loss, reference, inside = (float(values.mean()) for values in step)
            moves = prices[after] / prices[position]
            own_crps, reference_crps = _crps(row, moves)
            windows.append(
                LiveWindow(
                    origin=origin.item(),
                    version=int(row["version"]),
                    position=position,
                    loss=loss,
                    persistence=reference,
                    coverage=inside if np.isfinite(inside) else None,
                    crps=own_crps,
                    reference=reference_crps,
                    dates=tuple(sessions[after].tolist()),
                    moves=tuple(moves.tolist()),
                )
            )
    counts: dict[str, Any] = {
        "issued": len(rows),
        "late": len(rows) - len(on_time),
        "repeated": len(on_time) - len(first),
        "unplaced": unplaced,
        "outdated": len(first) - len(current),
        "pending": len(current) - unplaced - len(windows),
    }
    missing = _missing(current, sessions)
    interval = float(current["interval"].iloc[-1]) if len(current) else 0.0
    figures = _figures(windows, horizon=horizon) | _crps_figures(windows, horizon=horizon)
    return LiveScores(
        ticker=ticker,
        horizon=horizon,
        interval=interval,
        windows=tuple(windows),
        steps=_steps(arrived, horizon=horizon),
        missing_dates=missing,
        text=_text(figures, counts, missing, ticker=ticker, scored=len(windows), interval=interval),
        **counts,
        **figures,
    )


def _checked(issued: pd.DataFrame, *, ticker: str) -> pd.DataFrame:
    if issued.empty:
        return pd.DataFrame(columns=list(ISSUED_COLUMNS))
    if missing := [column for column in ISSUED_COLUMNS if column not in issued]:
        raise ForecastsError(f"{ticker}: the issued forecasts lack the columns {', '.join(missing)}")
    for row in issued.to_dict("records"):
        where = f"{ticker}: the forecast of {row['ticker']} issued for {row['origin']}"
        if row["ticker"] != ticker:
            raise ForecastsError(f"{where} is of another ticker; score each ticker separately")
        paths = [np.asarray(row[name], float) for name in ("median", "lower", "upper")]
        if any(path.shape != (len(row["target_dates"]),) for path in paths):
            raise ForecastsError(f"{where} does not have one median, lower and upper value for each target date")
        bounds = np.concatenate(paths[1:])
        values = np.concatenate([paths[0], bounds[~np.isnan(bounds)], [row["origin_close"], row["sigma"]]])
        if not (np.isfinite(values) & (values > 0)).all():
            raise ForecastsError(f"{where} has a price or a volatility that is not positive and finite")
    return issued


def _missing(issued: pd.DataFrame, sessions: Dates) -> tuple[date, ...]:
    """Return the target dates up to the last session that have no price, without provisional ones."""
    if issued.empty:
        return ()
    rows = zip(issued["target_dates"], issued["provisional_dates"], strict=True)
    sure = [sorted(set(dates) - set(guessed)) for dates, guessed in rows]
    planned = np.unique(np.concatenate([np.asarray(dates, dtype="datetime64[D]") for dates in sure]))
    return tuple(np.setdiff1d(planned[planned <= sessions[-1]], sessions).tolist())


def _errors(row: dict, moves: Floats) -> tuple[Floats, Floats, Floats]:
    """Return errors of forecast and persistence, and whether the band held, each (m,), for m moves ``p / p_origin``.

    Without a band, the last is NaN.
    """
    median, lower, upper = (
        np.asarray(row[name], float)[: len(moves)] / row["origin_close"] for name in ("median", "lower", "upper")
    )
    sigma = np.array([row["sigma"]])
    own, reference = (
        scaled_errors(moves[None], forecast[None], sigma=sigma)[0] for forecast in (median, np.ones_like(moves))
    )
    return own, reference, np.where(np.isnan(lower), np.nan, (lower <= moves) & (moves <= upper))


def _crps(row: dict, moves: Floats) -> tuple[float | None, float | None]:
    """Return the mean CRPS of the issued quantiles and of the random walk's, in daily standard deviations."""
    own, reference = (np.asarray(row.get(name, ()), float) for name in DISTRIBUTION_COLUMNS)
    if not own.size or own.shape != reference.shape:
        return None, None
    truth = np.log(moves)[None] / row["sigma"]
    units = (np.log(prices / row["origin_close"]).T[None] / row["sigma"] for prices in (own, reference))
    first, second = (float(crps(members, truth).mean()) for members in units)
    return first, second


def _crps_figures(windows: list[LiveWindow], *, horizon: int) -> dict:
    known = [window for window in windows if window.crps is not None]
    if not known:
        return {"distributions": 0, "crps_skill": None, "crps_p": 1.0, "crps_note": "none was issued with quantiles"}
    own, reference = (np.array([getattr(window, name) for window in known], float) for name in ("crps", "reference"))
    positions = np.array([window.position for window in known], dtype=np.int64)
    test = diebold_mariano(own, reference, positions=positions, horizon=horizon)
    return {
        "distributions": len(known),
        "crps_skill": skill(float(own.mean()), float(reference.mean())) if reference.any() else None,
        "crps_p": test.p_value,
        "crps_note": test.note,
    }


def _figures(windows: list[LiveWindow], *, horizon: int) -> dict:
    if not windows:
        empty = dict.fromkeys(("scaled_mse", "persistence", "skill", "coverage"))
        return {**empty, "independent": 0, "p_value": 1.0, "note": "no forecast is complete yet"}
    loss, reference = (np.array([getattr(window, name) for window in windows]) for name in ("loss", "persistence"))
    positions = np.array([window.position for window in windows], dtype=np.int64)
    test = diebold_mariano(loss, reference, positions=positions, horizon=horizon)
    return {
        "scaled_mse": float(loss.mean()),
        "persistence": float(reference.mean()),
        "skill": skill(float(loss.mean()), float(reference.mean())) if reference.any() else None,
        "coverage": _mean_known([window.coverage for window in windows]),
        "independent": len(independent_rows(positions, horizon=horizon)),
        "p_value": test.p_value,
        "note": test.note,
    }


def _steps(arrived: list[tuple[Floats, Floats, Floats]], *, horizon: int) -> tuple[LiveStep, ...]:
    steps = []
    for ahead in range(horizon):
        values = [[part[ahead] for part in step] for step in arrived if len(step[0]) > ahead]
        if values:
            own, reference, _ = (float(mean) for mean in np.mean(values, axis=0))
            inside = _mean_known([each[2] for each in values])
            steps.append(
                LiveStep(
                    horizon=ahead + 1, forecasts=len(values), scaled_mse=own, persistence=reference, coverage=inside
                )
            )
    return tuple(steps)


def _mean_known(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None and np.isfinite(share)]
    return float(np.mean(known)) if known else None


def _text(
    figures: dict, counts: dict[str, int], missing: tuple[date, ...], *, ticker: str, scored: int, interval: float
) -> str:
    aside = [f"{counts[name]} {name}" for name in ("pending", "late", "repeated", "unplaced", "outdated")]
    rest = "".join(f", {words}" for words in aside if not words.startswith("0 "))
    gap = f"; planned sessions without a price: {', '.join(map(str, missing))}" if missing else ""
    if not scored:
        return f"No issued forecast of {ticker} is complete yet ({counts['issued']} issued{rest}){gap}."
    gain = figures["skill"]
    if gain is None:
        side = "above persistence's, as no price moved"
    else:
        side = f"{percent(abs(gain))} {'below' if gain > 0 else 'above'} persistence's" if gain else "persistence's own"
    chance = figures["note"] or p_text(figures["p_value"])
    inside = ""
    if figures["coverage"] is not None:
        share, band = (percent(value, decimals=0) for value in (figures["coverage"], interval))
        inside = f", and {share} of the prices were inside the {band} band"
    whole = ""
    if figures["crps_skill"] is not None:
        better = figures["crps_skill"]
        whole = (
            f" The CRPS of {figures['distributions']} of them is {percent(abs(better))} "
            f"{'below' if better >= 0 else 'above'} the random walk's "
            f"({figures['crps_note'] or p_text(figures['crps_p'])})."
        )
    return (
        f"{scored} issued forecasts of {ticker} are complete ({figures['independent']} independent{rest}): their "
        f"squared error is {side} ({chance}){inside}{gap}.{whole}"
    )
