from datetime import date
from io import StringIO

from rich.console import Console

from tickerforge.flows.cli.screen import forecast_table
from tickerforge.flows.night.next_sessions import Forecast, Session


def test_only_the_issued_forecast_is_shown_as_issued_and_a_warning_once() -> None:
    late = "the prices of DEMO end on 2026-11-20: get the later ones."
    challenger = Forecast(
        ticker="DEMO",
        origin=date(2026, 11, 20),
        last_close=100.0,
        adapter="DEMO@challenger",
        version=1,
        sigma=0.01,
        interval=0.8,
        answers=4,
        valid=3,
        sessions=(Session(date=date(2026, 11, 23), median=101.0, lower=None, upper=None),),
        warnings=(late, "3 of 4 answers were valid: no band."),
        why="it has not beaten every free forecast",
    )
    issued = challenger.model_copy(
        update={
            "adapter": "Random walk",
            "why": "no adapter of DEMO has beaten every free forecast",
            "warnings": (late,),
            "challenger": challenger,
        }
    )
    console = Console(file=StringIO(), width=200)
    console.print(forecast_table(issued))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    first, second = shown.split("For comparison, not issued:")
    assert "Issued by Random walk: no adapter of DEMO has beaten every free forecast." in first
    assert "The prices of DEMO end" in first
    assert "ssued by" not in second
    assert "The prices of DEMO end" not in second
    assert "It has not beaten every free forecast.\n3 of 4 answers were valid: no band." in second
