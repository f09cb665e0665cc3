"""Price files in the dialects of many sources become the same bars, to the last bit."""

from collections.abc import Callable

import pandas as pd
import pytest

from price_sources import ADJUSTED, UNADJUSTED, Bars, Written, bars_to_write
from tickerforge.features.prices.bars import parse_csv
from tickerforge.features.prices.dialects import REPAIRS


def read(content: Written) -> pd.DataFrame:
    found = parse_csv(content if isinstance(content, bytes) else content.encode(), path="ACME.csv", ticker="ACME")
    assert found.repairs
    assert set(found.repairs) <= set(REPAIRS)
    return found.bars


@pytest.mark.parametrize("write", UNADJUSTED.values(), ids=UNADJUSTED)
def test_a_source_without_an_adjusted_close_is_read_to_the_last_bit(write: Callable[[Bars], Written]) -> None:
    bars = bars_to_write(adjusted=False)
    pd.testing.assert_frame_equal(read(write(bars)), bars, check_exact=True)


@pytest.mark.parametrize("write", ADJUSTED.values(), ids=ADJUSTED)
def test_a_source_with_an_adjusted_close_is_read_to_the_last_bit(write: Callable[[Bars], Written]) -> None:
    bars = bars_to_write()
    pd.testing.assert_frame_equal(read(write(bars)), bars, check_exact=True)
