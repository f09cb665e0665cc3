"""Alerts: a webhook gets what to look at, a quiet night one line, and no log shows an address."""

import json
import logging
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from desk_rows import desk_row
from tickerforge.evaluation.report.desk import FAILED, KEPT, PROMOTED
from tickerforge.flows.errors import NightFailed
from tickerforge.flows.night.alerts import night_message
from tickerforge.flows.night.forecast import forecast
from tickerforge.flows.night.nightly import nightly
from tickerforge.flows.server.alert import alert, alert_if_scheduled
from tickerforge.flows.train.pipeline import train_ticker
from tickerforge.tasks.outputs.alerts import ALERTS_VARIABLE, send_alert
from web_server import Reply, web_server

# One of the many services that apprise knows.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

DESK = "http://127.0.0.1:5000/#/desk"


def test_a_webhook_gets_every_stock_to_look_at_failures_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        desk_row("AAPL", outcome=PROMOTED, verdict="SFT is the new champion."),
        desk_row("BRK.B", outcome=KEPT, flags=("stale", "error drift"), watch=("It ends.", "The error doubled.")),
        desk_row("CALM", outcome=KEPT),
        desk_row("ZAP", outcome=FAILED, flags=("failed",), watch=("It diverged.",)),
    ]
    with web_server(lambda path, headers: Reply()) as web:
        monkeypatch.setenv(ALERTS_VARIABLE, f"{web.url}/hook?token=secret")
        assert send_alert(*night_message(rows, address=DESK))
    (sent,) = map(json.loads, web.posted)
    assert sent["title"] == "TickerForge night: 4 stocks, 1 promoted, 1 failed"
    assert sent["message"].splitlines() == [
        "ZAP (failed): It diverged.",
        "AAPL (promoted): SFT is the new champion.",
        "BRK.B (stale, error drift): It ends. The error doubled.",
        f"Desk: {DESK}",
    ]
    assert web.asked[0][0].startswith("/hook")


def test_a_quiet_night_is_one_line_and_a_bad_one_is_cut() -> None:
    quiet = night_message([desk_row(outcome=KEPT)], address=DESK)
    assert quiet == ("TickerForge night: 1 stock, 0 promoted, 0 failed", f"Nothing to watch.\nDesk: {DESK}")
    rows = [desk_row(f"T{number}", outcome=FAILED, flags=("failed",)) for number in range(60)]
    assert night_message(rows, address=DESK)[1].splitlines()[-2] == "and 20 more"


def test_an_address_that_does_not_take_it_is_counted_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with web_server(lambda path, headers: Reply(status=500)) as web, caplog.at_level(logging.DEBUG):
        monkeypatch.setenv(ALERTS_VARIABLE, f"{web.url}/planted-secret, nonsense://planted-secret")
        assert not send_alert("title", "text")
    assert "2 of 2 addresses in TICKERFORGE_ALERTS did not take the alert" in caplog.text
    assert "planted-secret" not in "".join(each.getMessage() for each in caplog.records if "tickerforge" in each.name)
    monkeypatch.delenv(ALERTS_VARIABLE)
    assert send_alert("title", "text")


def test_a_run_that_fails_before_its_table_sends_one_and_a_watched_run_does_not(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(on_failure=[alert])
    def night(error: str) -> None:
        raise NightFailed(error) if error == "told" else ValueError(error)

    @flow(on_failure=[alert_if_scheduled])
    def watched() -> None:
        raise ValueError("seen")

    with web_server(lambda path, headers: Reply()) as web:
        monkeypatch.setenv(ALERTS_VARIABLE, web.url)
        for failing in (lambda: night("told"), lambda: night("the disk is gone"), watched):
            with pytest.raises((NightFailed, ValueError)):
                failing()
    (sent,) = map(json.loads, web.posted)
    assert sent["title"].startswith("TickerForge: night ")
    assert sent["title"].endswith(" has failed")
    assert "the disk is gone" in sent["message"]


def test_every_flow_on_a_schedule_alerts() -> None:
    for scheduled, hook in ((nightly, alert), (forecast, alert), (train_ticker, alert_if_scheduled)):
        assert scheduled.on_failure_hooks == [hook]
        assert scheduled.on_crashed_hooks == [hook]


def test_a_scheduled_run_of_one_stock_that_crashes_sends_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server(lambda path, headers: Reply()) as web:
        monkeypatch.setenv(ALERTS_VARIABLE, web.url)
        for scheduled in (True, False):
            run = FlowRun(flow_id=uuid4(), name="AAPL", auto_scheduled=scheduled)
            alert_if_scheduled(train_ticker, run, Crashed(message="the worker is gone"))
    (sent,) = map(json.loads, web.posted)
    assert sent == {"title": "TickerForge: train-ticker AAPL has crashed", "message": "the worker is gone"} | {
        name: sent[name] for name in sent.keys() - {"title", "message"}
    }
