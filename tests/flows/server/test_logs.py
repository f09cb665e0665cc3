import logging
import re
from pathlib import Path

import pytest

from tickerforge.flows.server.logs import run_log, show_on_terminal


def test_a_run_log_keeps_own_and_foreign_lines_with_utc_times_and_tracebacks(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pipeline.log"
    with run_log(path):
        logging.getLogger("tickerforge.tasks.models.train").info("step %d", 3)
        logging.getLogger("somebody.else").warning("careful")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("tickerforge.flows.train.runs").exception("failed")
    logging.getLogger("tickerforge.tasks.models.train").info("too late")
    text = path.read_text()
    line = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO    tickerforge\.tasks\.models\.train: step 3$"
    assert re.search(line, text, re.MULTILINE)
    assert "somebody.else: careful" in text
    assert "ValueError: broken" in text
    assert "too late" not in text


def test_a_second_run_appends_to_the_log(tmp_path: Path) -> None:
    for words in ("first", "second"):
        with run_log(tmp_path / "pipeline.log"):
            logging.getLogger("tickerforge.flows.train.runs").info(words)
    assert [line.rsplit(" ", 1)[-1] for line in (tmp_path / "pipeline.log").read_text().splitlines()] == [
        "first",
        "second",
    ]


@pytest.mark.parametrize("debug", [False, True])
def test_the_terminal_shows_tracebacks_in_debug_mode_only(
    debug: bool, quiet_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    show_on_terminal(debug=debug)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("somebody.else").exception("it failed")
    shown = capsys.readouterr().err
    assert "it failed" in shown
    assert ("Traceback" in shown) == debug


def test_the_terminal_shows_foreign_warnings_in_debug_mode_only(
    quiet_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    show_on_terminal(debug=False)
    logging.getLogger("somebody.else").warning("careful")
    assert "careful" not in capsys.readouterr().err
