"""The desk's page holds every text as data, allows only its own script, and its table has every issued quantile."""

import base64
import hashlib
import json
import re

import pandas as pd

from desk_rows import EVENING, ORIGIN, desk_row
from tickerforge.evaluation.report.desk import DeskRow, forecasts_frame, render_desk

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"


def data_of(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def test_hostile_texts_stay_data() -> None:
    rows = [desk_row(HOSTILE, verdict=HOSTILE, why=HOSTILE, watch=(HOSTILE,), report="javascript:alert(3)")]
    page = render_desk(rows, written_at=EVENING, end=HOSTILE, notes=[HOSTILE])
    assert len(re.findall(r"<script", page)) == 2
    assert "<img" not in page
    assert "\u2028" not in re.findall(r'id="data">(.*?)<', page)[0]
    (row,) = data_of(page)["rows"]
    assert (row["t"], row["r"], row["w"], row["y"]) == (HOSTILE, HOSTILE, HOSTILE, [HOSTILE])


def test_the_page_allows_its_own_script_and_style_and_nothing_else() -> None:
    page = render_desk([desk_row()], written_at=EVENING)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, tag in (("style-src", "style"), ("script-src", "script")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert not re.findall(r'(?:src|href)="', page)
    assert "innerHTML" not in page


def test_a_row_has_its_moves_flags_and_calendar_and_a_ticker_without_a_forecast_is_there() -> None:
    rows = [desk_row("MSFT", issuer="champion", version=3, flags=("stale",)), desk_row(), DeskRow(ticker="NEW")]
    data = data_of(render_desk(rows, written_at=EVENING))
    assert [row["t"] for row in data["rows"]] == ["AAPL", "MSFT", "NEW"]
    assert data["calendars"] == [["2026-11-23", "2026-11-24", "2026-11-25?"], []]
    free, champion, new = data["rows"]
    assert (free["d"], free["i"], free["v"], free["n"]) == (0, "Random walk (HAR)", 0, 2)
    assert (champion["i"], champion["v"], champion["g"]) == ("champion, version 3", 3, ["stale"])
    assert (new["p"], new["m"], new["o"]) == (None, [], "")


def test_the_table_has_a_row_per_session_with_every_issued_quantile() -> None:
    bare = desk_row("BARE", lower=(None,) * 3, upper=(None,) * 3, quantiles=())
    frame = forecasts_frame([desk_row(), bare, DeskRow(ticker="NEW")])
    assert list(frame["ticker"]) == ["AAPL"] * 3 + ["BARE"] * 3
    assert list(frame.columns[-19:]) == [f"q{level:02d}" for level in range(5, 100, 5)]
    first = frame.iloc[0]
    assert (first["origin"], first["session"], first["issued_at"]) == (
        pd.Timestamp(ORIGIN),
        1,
        pd.Timestamp(EVENING),
    )
    assert (frame["q10"] == frame["lower"])[:3].all()
    assert frame.loc[3:, ["lower", "q05", "q95"]].isna().all(axis=None)
    assert list(frame["provisional"][:3]) == [False, False, True]
    assert forecasts_frame([]).columns.equals(frame.columns)


def test_what_the_model_wrote_is_data_of_the_page() -> None:
    (row,) = data_of(render_desk([desk_row(thoughts=(HOSTILE, "It fell."))], written_at=EVENING))["rows"]
    assert row["W"] == [HOSTILE, "It fell."]
