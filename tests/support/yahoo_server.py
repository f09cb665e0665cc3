"""A server on this machine that answers yfinance like Yahoo's chart interface, with our own numbers."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from web_server import Reply, Web, web_server

ZONE = "America/New_York"
COLUMNS = {"open": "open", "high": "high", "low": "low", "close": "close", "volume": "volume"}


@dataclass
class Yahoo:
    """The answers of the server: bars by ticker, and other answers that come instead."""

    bars: dict[str, pd.DataFrame]
    instead: dict[str, list[Reply]] = field(default_factory=dict)
    now: str = "2026-11-25 17:30"
    asked: list[tuple[str, str]] = field(default_factory=list)
    web: Web | None = None

    def answer(self, path: str, headers: Mapping[str, str]) -> Reply:
        """Refuse cookies and crumbs, as Yahoo may, and answer charts."""
        parts = urlsplit(path)
        if not parts.path.startswith("/v8/finance/chart/"):
            return Reply(status=404)
        stock = parts.path.rpartition("/")[2]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        zone_only = "period1" not in query
        if not zone_only:
            first = pd.Timestamp(int(query["period1"]), unit="s", tz="UTC").tz_convert(ZONE)
            self.asked.append((stock, f"{first:%Y-%m-%d}"))
        if self.instead.get(stock) and not zone_only:
            rest = self.instead[stock]
            return rest.pop(0) if len(rest) > 1 else rest[0]
        if stock not in self.bars:
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return Reply(json.dumps({"chart": {"result": None, "error": error}}).encode(), status=404)
        return Reply(json.dumps(self.chart(stock, query)).encode())

    def chart(self, stock: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Build the answer as yfinance 1.7 reads it."""
        bars = self.bars[stock]
        opens = (bars["date"] + pd.Timedelta(hours=9, minutes=30)).dt.tz_localize(ZONE)
        seconds = opens.map(lambda each: int(each.timestamp()))
        asked = (seconds >= int(query.get("period1", 0))) & (seconds < int(query.get("period2", 2**40)))
        bars, seconds = bars[asked], seconds[asked]
        day = pd.Timestamp(self.now, tz=ZONE).normalize()
        period = {
            "timezone": "EST",
            "gmtoffset": -18000,
            "start": int((day + pd.Timedelta(hours=9, minutes=30)).timestamp()),
            "end": int((day + pd.Timedelta(hours=16)).timestamp()),
        }
        meta = {
            "currency": "USD",
            "symbol": stock,
            "exchangeName": "NMS",
            "instrumentType": "EQUITY",
            "firstTradeDate": 345479400,
            "regularMarketTime": period["end"],
            "gmtoffset": -18000,
            "timezone": "EST",
            "exchangeTimezoneName": ZONE,
            "priceHint": 2,
            "currentTradingPeriod": {"pre": dict(period), "regular": dict(period), "post": dict(period)},
            "dataGranularity": "1d",
            "range": "",
            "validRanges": ["1d", "5d", "1mo", "max"],
        }
        quote = {name: [None if pd.isna(v) else float(v) for v in bars[name]] for name in COLUMNS}
        adjusted = [None if pd.isna(value) else float(value) for value in bars["adj_close"]]
        indicators = {"quote": [quote], "adjclose": [{"adjclose": adjusted}]}
        result = {"meta": meta, "timestamp": [int(each) for each in seconds], "indicators": indicators}
        return {"chart": {"result": [result], "error": None}}

    @property
    def instant(self) -> datetime:
        """The server's now."""
        return pd.Timestamp(self.now, tz=ZONE).to_pydatetime()


def up_to(bars: pd.DataFrame, *, last: str) -> pd.DataFrame:
    """Move the bars to the business days up to a day."""
    return bars.assign(date=pd.bdate_range(end=last, periods=len(bars)).astype("datetime64[s]"))


@contextmanager
def yahoo_server(monkeypatch: pytest.MonkeyPatch, bars: dict[str, pd.DataFrame]) -> Iterator[Yahoo]:
    """Run the server, and redirect every request for Yahoo to it."""
    from curl_cffi.requests import Session
    from yfinance.data import YfData

    from tickerforge.tasks.prices import download, source_yahoo

    yahoo = Yahoo(bars)
    ask = Session.request
    with web_server(yahoo.answer) as web:

        def elsewhere(self: Session, method: str, url: str, *arguments: Any, **options: Any) -> Any:
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.hostname.endswith("yahoo.com")
            return ask(self, method, f"{web.url}{parts.path}", *arguments, **options)

        monkeypatch.setattr(Session, "request", elsewhere)
        monkeypatch.setattr(download, "RETRY_DELAYS_SECONDS", [0.0, 0.0])
        monkeypatch.setattr(source_yahoo, "PAUSE_SECONDS", 0.0)
        YfData.cache_get.cache_clear()
        source_yahoo._client.cache_clear()
        yahoo.web = web
        yield yahoo
