"""The desk: one page over all tickers, and the table of the latest forecasts."""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import date, datetime
from importlib.resources import files

import pandas as pd
from pydantic import AwareDatetime

from tickerforge.evaluation.core.contracts import ISSUED_LEVELS
from tickerforge.evaluation.core.labels import model_label
from tickerforge.features.config import FrozenModel
from tickerforge.features.price_text import price_decimals

TEMPLATE = "desk.html.j2"
PROMOTED, KEPT, FAILED = "promoted", "kept", "failed"
HISTORY = 60
"""Closes before the forecast in the fan chart."""
_DIGITS = 6
_INNER = tuple(ISSUED_LEVELS.index(level) for level in (0.25, 0.75))
"""Places of the bounds of the 50 % band."""


class DeskRow(FrozenModel):
    """What is known about one ticker: its issued forecast, the scores of earlier ones, and its last verdict.

    `origin` is the last session that the forecast knew, `last_close` its adjusted close (in `currency`), `closes` the
    closes up to it, `sigma` the standard deviation of daily log returns. `dates`, `median`, `lower` and `upper` have
    one value per session of the forecast, and `quantiles` those at `ISSUED_LEVELS`. `issuer` has issued since `since`.
    `thoughts` are what the model wrote before some of its answers.
    `challenger` is the median of the challenger beside a free forecast. Of the `scored` forecasts with quantiles,
    `crps_skill` is the gain over the random walk, and `live` says it in words. `flags` name what to look at, and
    `watch` explains them. `outcome` of the last training is `promoted`, `kept` or `failed`, and `verdict` its reason.
    `basis` is a hash of what the last night depended on, and `trained_on` that of the last training.
    """

    ticker: str
    currency: str = ""
    origin: date | None = None
    last_close: float | None = None
    closes: tuple[float, ...] = ()
    sigma: float | None = None
    interval: float = 0.8
    dates: tuple[date, ...] = ()
    provisional: tuple[date, ...] = ()
    median: tuple[float, ...] = ()
    lower: tuple[float | None, ...] = ()
    upper: tuple[float | None, ...] = ()
    quantiles: tuple[tuple[float, ...], ...] = ()
    issuer: str = ""
    version: int = 0
    issued_at: AwareDatetime | None = None
    since: AwareDatetime | None = None
    why: str = ""
    thoughts: tuple[str, ...] = ()
    challenger: tuple[float, ...] = ()
    crps_skill: float | None = None
    scored: int = 0
    live: str = ""
    flags: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    outcome: str = ""
    verdict: str = ""
    judged_at: AwareDatetime | None = None
    report: str = ""
    basis: str = ""
    trained_on: str = ""

    @property
    def issued_by(self) -> str:
        """The issuer in words: `champion, version 3`, or the free forecaster."""
        return f"{self.issuer}, version {self.version}" if self.version else model_label(self.issuer)


def forecasts_frame(rows: Sequence[DeskRow]) -> pd.DataFrame:
    """Return the latest issued forecasts, one row per ticker and session ahead.

    Returns:
        Columns `ticker`, `origin` (datetime64[s]), `issued_at` (UTC), `issuer`, `version` (0 for a free forecaster),
        `currency`, `last_close`, `sigma` (daily), `interval`, `session` (1 is the next one), `date` (datetime64[s]),
        `provisional`, `median`, `lower`, `upper` and `q05` to `q95`; prices in the currency, NaN without a band.
    """
    levels = [f"q{round(100 * level):02d}" for level in ISSUED_LEVELS]
    of_ticker = ("ticker", "origin", "issued_at", "issuer", "version", "currency", "last_close", "sigma", "interval")
    found = []
    for row in rows:
        head = {name: getattr(row, name) for name in of_ticker}
        for place, day in enumerate(row.dates):
            of_session = {"session": place + 1, "date": day, "provisional": day in row.provisional}
            path = {name: getattr(row, name)[place] for name in ("median", "lower", "upper")}
            quantiles = row.quantiles[place] if row.quantiles else [None] * len(levels)
            found.append(head | of_session | path | dict(zip(levels, quantiles, strict=True)))
    columns = [
        *of_ticker,
        *("session", "date", "provisional", "median", "lower", "upper", *levels),
    ]
    frame = pd.DataFrame(found, columns=columns)
    prices = ["last_close", "sigma", "interval", "median", "lower", "upper", *levels]
    return frame.astype(
        {
            "origin": "datetime64[s]",
            "date": "datetime64[s]",
            "issued_at": "datetime64[s, UTC]",
            "version": "int64",
            "session": "int64",
            "provisional": "bool",
        }
        | dict.fromkeys(prices, "float64")
    )


def render_desk(rows: Sequence[DeskRow], *, written_at: datetime, end: str = "", notes: Sequence[str] = ()) -> str:
    """Render the page: one HTML file that needs neither a server nor the network.

    All texts are data of the page's script, which writes them as text. The page allows only its own script and style,
    by their hashes.

    Args:
        rows: In any order.
        written_at: Now.
        end: End of the record of issued forecasts; see `tickerforge record verify`.
        notes: Sentences for the foot of the page.
    """
    import jinja2

    source = files("tickerforge.evaluation.report")
    style, script = (source.joinpath(name).read_text(encoding="utf-8") for name in ("desk.css", "desk.js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(source.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    data = json.dumps(_payload(rows), separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return template.render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data,
        tickers=len(rows),
        written_at=f"{written_at:%Y-%m-%d %H:%M} UTC",
        end=end,
        notes=notes,
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _payload(rows: Sequence[DeskRow]) -> dict:
    """Return the data of the page's script; equal lists of dates are there once."""
    calendars: dict[tuple[str, ...], int] = {}
    found = []
    for row in sorted(rows, key=lambda each: each.ticker):
        dates = tuple(f"{day}{'?' if day in row.provisional else ''}" for day in row.dates)
        inner = [[_short(levels[place]) for levels in row.quantiles] for place in _INNER]
        found.append(
            {
                "t": row.ticker,
                "c": row.currency,
                "o": str(row.origin or ""),
                "p": row.last_close,
                "n": price_decimals(row.last_close) if row.last_close else 2,
                "h": [_short(price) for price in row.closes],
                "s": _short(row.sigma),
                "d": calendars.setdefault(dates, len(calendars)),
                "m": [_short(price) for price in row.median],
                "l": [_short(price) for price in row.lower],
                "u": [_short(price) for price in row.upper],
                "f": inner if row.quantiles else [],
                "b": f"{100 * row.interval:.0f} %",
                "i": row.issued_by if row.issuer else "",
                "v": row.version,
                "a": f"{row.since:%Y-%m-%d}" if row.since else "",
                "w": row.why,
                "W": row.thoughts,
                "x": [_short(price) for price in row.challenger],
                "k": _short(row.crps_skill),
                "z": row.scored,
                "e": row.live,
                "g": row.flags,
                "y": row.watch,
                "q": row.outcome,
                "r": row.verdict,
                "j": f"{row.judged_at:%Y-%m-%d}" if row.judged_at else "",
                "U": row.report,
            }
        )
    return {"calendars": [list(dates) for dates in calendars], "rows": found}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
