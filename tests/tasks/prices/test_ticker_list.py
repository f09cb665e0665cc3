"""Lists of tickers as people keep them."""

from pathlib import Path

import pytest

from tickerforge.features.errors import BarsError
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.ticker_list import read_ticker_list


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AAPL\nMSFT\n", ["AAPL", "MSFT"]),
        ("# my stocks\nAAPL, MSFT  # two\n\nNVDA;aapl AAPL\n", ["AAPL", "MSFT", "NVDA", "aapl"]),
        ("COIN\nNAME\n", ["COIN", "NAME"]),
        ("Symbol\nBRK.B\nVOD.L\nBF/B\n7203.T\n", ["BRK-B", "VOD.L", "BF-B", "7203.T"]),
        ('\ufeffTicker,Name\nAAPL,"Apple, Inc."\n', ["AAPL"]),
        ("Company,Symbol\nApple,AAPL\n", ["AAPL"]),
    ],
)
def test_a_list_is_read_in_its_order_each_ticker_once(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "tickers.txt"
    path.write_text(text)
    assert read_ticker_list(path) == expected


def test_a_list_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(BarsError, match="there is no such file"):
        read_ticker_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(MarketDataError, match="holds no tickers: write one per line"):
        read_ticker_list(tmp_path / "empty.txt")
