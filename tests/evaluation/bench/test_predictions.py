"""A user's forecasts from a file: what is read, what is refused with which message, and unanswered windows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from protocol_series import three
from tickerforge.evaluation.baselines.rivals import drift, persistence, walks
from tickerforge.evaluation.bench.predictions import HORIZON_COLUMNS, read_predictions
from tickerforge.evaluation.bench.standings import ProtocolForecast, standings_of, whole_of
from tickerforge.evaluation.core.errors import PredictionsError

PROTOCOL = three()


def table() -> pd.DataFrame:
    """Drift for every test window, in the documented columns."""
    names = np.array(PROTOCOL.tickers, dtype=object)[PROTOCOL.place]
    frame = pd.DataFrame({"ticker": names, "origin": PROTOCOL.origins.astype(str)})
    return frame.join(pd.DataFrame(drift(PROTOCOL), columns=list(HORIZON_COLUMNS)))


def written(frame: pd.DataFrame, folder: Path, suffix: str = ".csv") -> Path:
    path = folder / f"mine{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_in_any_order_is_scored_like_the_forecasts_it_holds(tmp_path: Path, suffix: str) -> None:
    shuffled = table().sample(frac=1, random_state=0)
    (entry,) = read_predictions(written(shuffled, tmp_path, suffix), PROTOCOL)
    np.testing.assert_allclose(entry.forecast, drift(PROTOCOL))
    assert (entry.name, entry.unanswered) == ("mine", 0)


def test_dates_may_be_dates_in_a_parquet_file(tmp_path: Path) -> None:
    frame = table()
    frame["origin"] = pd.to_datetime(frame["origin"])
    (entry,) = read_predictions(written(frame, tmp_path, ".parquet"), PROTOCOL)
    np.testing.assert_allclose(entry.forecast, drift(PROTOCOL))


def test_windows_left_out_and_empty_prices_count_as_persistence_and_are_counted(tmp_path: Path) -> None:
    frame = table().iloc[5:]
    frame.loc[frame.index[3], "h4"] = np.nan
    (entry,) = read_predictions(written(frame, tmp_path), PROTOCOL)
    assert entry.unanswered == 6
    np.testing.assert_array_equal(entry.forecast[[0, 4, 8]], persistence(PROTOCOL)[[0, 4, 8]])
    everything = np.ones(len(entry.forecast), dtype=bool)
    found = standings_of(PROTOCOL, [ProtocolForecast("persistence", persistence(PROTOCOL), asked=everything), entry])
    assert (found.of("mine").unanswered, found.of("mine").is_complete) == (6, True)


def test_a_window_left_out_of_a_file_of_quantiles_has_the_distribution_of_the_random_walk(tmp_path: Path) -> None:
    free = walks(PROTOCOL)["random_walk"][1]
    everything = np.arange(len(free))
    narrow = PROTOCOL.origin_price[:, None] * np.exp(np.quantile(free, [0.3, 0.5, 0.7], axis=1) / 2)
    base = table()[["ticker", "origin"]]
    parts = [
        base.assign(quantile=label).join(pd.DataFrame(prices, columns=list(HORIZON_COLUMNS)))
        for label, prices in zip(("q30", "q50", "q70"), narrow, strict=True)
    ]
    walk = replace(_whole("random_walk"), whole=whole_of(PROTOCOL, [(everything, free)]))

    def crps(kept: int) -> float:
        (entry,) = read_predictions(written(pd.concat([each.iloc[kept:] for each in parts]), tmp_path), PROTOCOL)
        assert entry.unanswered == kept
        return standings_of(PROTOCOL, [_whole("persistence"), walk, entry]).of("mine").crps or 0.0

    free_crps = standings_of(PROTOCOL, [_whole("persistence"), walk]).of("random_walk").crps
    assert free_crps is not None
    assert crps(0) > crps(len(base) // 2) > crps(len(base) - 1) == pytest.approx(free_crps, rel=0.01)


def _whole(name: str) -> ProtocolForecast:
    return ProtocolForecast(name, persistence(PROTOCOL), asked=np.ones(len(PROTOCOL.place), dtype=bool))


def test_a_file_may_hold_several_forecasters(tmp_path: Path) -> None:
    both = pd.concat([table().assign(model="a"), table().head(30).assign(model="b")])
    first, second = read_predictions(written(both, tmp_path), PROTOCOL)
    assert (first.name, second.name) == ("a", "b")
    assert second.unanswered == len(PROTOCOL.place) - 30


def test_samples_and_quantiles_of_one_distribution_score_like_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    free = walks(PROTOCOL)["random_walk"][1]
    origin = PROTOCOL.origin_price[:, None, None]
    own = whole_of(PROTOCOL, [(np.arange(len(free)), free)])
    drawn = np.stack([each[rng.integers(0, 99, 60)] for each in free])
    levels = np.arange(5, 100, 5)
    members = {
        "sample": (np.arange(60), origin * np.exp(drawn)),
        "quantile": ([f"q{level:02d}" for level in levels], origin * np.exp(np.sort(free, axis=1)[:, levels - 1])),
    }
    base = table()[["ticker", "origin"]]
    for column, (labels, prices) in members.items():
        parts = [
            base.assign(**{column: label}).join(pd.DataFrame(prices[:, place], columns=list(HORIZON_COLUMNS)))
            for place, label in enumerate(labels)
        ]
        frame = pd.concat(parts).sample(frac=1, random_state=0)
        (entry,) = read_predictions(written(frame, tmp_path, ".parquet"), PROTOCOL)
        assert entry.whole is not None
        assert entry.unanswered == 0
        assert entry.whole.crps.mean() == pytest.approx(own.crps.mean(), rel=0.02)
        assert np.isfinite(entry.whole.variance).all() == (column == "sample")
    np.testing.assert_allclose(entry.forecast, origin[:, 0] * np.exp(np.median(free, axis=1)))


def test_quantiles_may_all_be_shares(tmp_path: Path) -> None:
    parts = [table().assign(percent=percent) for percent in (5, 50, 95)]
    parts = [each.assign(h10=each["h10"] * (0.5 + each["percent"] / 100)) for each in parts]
    frame = pd.concat(parts).drop(columns="percent")
    percents = np.repeat([5, 50, 95], len(table()))
    found = [
        read_predictions(written(frame.assign(quantile=levels), tmp_path), PROTOCOL)[0].whole
        for levels in ([f"q{percent:02d}" for percent in percents], percents, percents / 100)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other.crps, found[0].crps)  # type: ignore[union-attr]
    small = read_predictions(written(frame.assign(quantile=[f"q{p / 100}" for p in percents]), tmp_path), PROTOCOL)
    assert not np.array_equal(small[0].whole.crps, found[0].crps)  # type: ignore[union-attr]


def test_a_quantile_that_is_none_and_one_given_twice_are_refused(tmp_path: Path) -> None:
    wrong = table().assign(quantile="median")
    with pytest.raises(PredictionsError, match="column quantile: 'median' is not a quantile in percent such as q05"):
        read_predictions(written(wrong, tmp_path), PROTOCOL)
    twice = pd.concat([table().assign(quantile="q50"), table().head(1).assign(quantile="q50")])
    with pytest.raises(PredictionsError, match="a second forecast of AAA from"):
        read_predictions(written(twice, tmp_path), PROTOCOL)
    with pytest.raises(PredictionsError, match="both a column quantile and a column sample"):
        read_predictions(written(table().assign(quantile="q50", sample=1), tmp_path), PROTOCOL)


def _with(column: str, value: object) -> pd.DataFrame:
    frame = table().astype({column: object})
    frame.loc[2, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().drop(columns=["h7", "origin"]), "lacks the columns origin, h7: a row has ticker, origin"),
        (_with("h3", "abc"), "row 4, column h3: 'abc' is not a positive price"),
        (_with("h3", -1.0), r"row 4, column h3: '-1.0' is not a positive price"),
        (_with("h3", "inf"), "row 4, column h3: 'inf' is not a positive price"),
        (_with("origin", "01/02/2013"), "row 4, column origin: '01/02/2013' is not a date like"),
        (
            _with("origin", "2012-01-03"),
            "row 4: 2012-01-03 is not the origin of a test window of AAA; its origins are the sessions",
        ),
        (_with("ticker", "NOPE"), "forecasts NOPE, but there are no prices"),
        (pd.concat([table(), table().iloc[[7]]]), "a second forecast of AAA from"),
        (table().head(0), "has no rows"),
    ],
)
def test_a_faulty_file_is_refused_with_row_column_and_value(tmp_path: Path, frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        read_predictions(written(frame, tmp_path), PROTOCOL)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="No such file"):
        read_predictions(tmp_path / "none.csv", PROTOCOL)
    broken = tmp_path / "broken.parquet"
    broken.write_text("ticker,origin")
    with pytest.raises(PredictionsError, match="neither a CSV file nor"):
        read_predictions(broken, PROTOCOL)
