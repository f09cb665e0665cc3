import errno
import sqlite3

import pytest

from tickerforge.features.errors import BarsError
from tickerforge.flows.errors import ConfigError, MissingArtifactError, NightFailed, PrefectUnavailable
from tickerforge.flows.server.outcome import exit_code, in_words, message
from tickerforge.tasks.base.errors import MarketDataError, NotRegistered, PublishError, StoreError, TrackingError
from tickerforge.training.errors import (
    AdapterError,
    BackendUnavailable,
    BaseModelError,
    NoAcceptedAnswers,
    TrainingDiverged,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BarsError("row 3"), 2),
        (ConfigError("x"), 2),
        (MissingArtifactError("x"), 2),
        (MarketDataError("x"), 2),
        (StoreError("x"), 2),
        (PublishError("x"), 2),
        (AdapterError("x"), 2),
        (BaseModelError("x"), 2),
        (BackendUnavailable("x"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (TrainingDiverged("x", last_good=None), 1),
        (NoAcceptedAnswers("x"), 1),
        (NotRegistered("x"), 2),
        (TrackingError("x"), 1),
        (PrefectUnavailable("x"), 1),
        (ZeroDivisionError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_a_full_disk_behind_a_databases_error_counts_as_a_full_disk() -> None:
    error = RuntimeError("cannot save")
    error.__cause__ = sqlite3.OperationalError("database or disk is full")
    assert exit_code(error) == 2
    assert "TICKERFORGE_HOME" in message(error)


def test_a_diverged_training_names_its_last_good_checkpoint(tmp_path) -> None:
    assert str(tmp_path) in message(TrainingDiverged("the reward fell", last_good=tmp_path))


def test_an_unexpected_failure_says_what_to_report() -> None:
    text = message(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError: division by zero" in text
    assert "--debug" in text


def test_a_night_with_failed_tickers_is_no_bug_unless_a_ticker_failed_by_one() -> None:
    assert message(NightFailed("ACME: MarketDataError: x")) == "ACME: MarketDataError: x"
    assert in_words(MarketDataError("x")) == "MarketDataError: x"
    assert in_words(ZeroDivisionError("x")).startswith("ZeroDivisionError: x This is a bug")
