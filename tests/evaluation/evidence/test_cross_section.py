"""Daily cross-sections against pandas and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from tickerforge.evaluation.evidence.cross_section import cross_section


def panel(*, knowledge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    moved = rng.standard_normal((120, 30))
    expected = knowledge * moved + rng.standard_normal((120, 30))
    return expected.ravel(), moved.ravel(), np.repeat(np.arange(120), 30)


def test_correlations_by_date_and_their_t_are_those_of_pandas_and_statsmodels() -> None:
    expected, moved, positions = panel(knowledge=0.2)
    found = cross_section(expected, moved, positions=positions, lag=18, cost=0.001)
    frame = pd.DataFrame({"day": positions, "expected": expected, "moved": moved})
    ranks = frame.groupby("day").apply(lambda day: day["expected"].corr(day["moved"], method="spearman"))
    plain = frame.groupby("day").apply(lambda day: day["expected"].corr(day["moved"]))
    fit = OLS(ranks.to_numpy(), np.ones(len(ranks))).fit(
        cov_type="HAC", cov_kwds={"maxlags": 18, "use_correction": False}
    )
    assert found is not None
    assert (found.rank_ic, found.ic, found.dates) == (pytest.approx(ranks.mean()), pytest.approx(plain.mean()), 120)
    assert found.t == pytest.approx(float(fit.tvalues[0]))
    assert found.icir == pytest.approx(ranks.mean() / ranks.std())
    best = frame.groupby("day").apply(lambda day: day.nlargest(3, "expected")["moved"].mean())
    worst = frame.groupby("day").apply(lambda day: day.nsmallest(3, "expected")["moved"].mean())
    assert found.spread == pytest.approx((best - worst).mean() - 0.004)


def test_rankings_without_knowledge_have_no_t_and_dates_with_few_tickers_do_not_count() -> None:
    expected, moved, positions = panel(knowledge=0.0)
    found = cross_section(expected, moved, positions=positions, lag=18, cost=0.0)
    assert found is not None
    assert abs(found.t) < 3
    assert cross_section(expected[:270], moved[:270], positions=np.arange(270) // 9, lag=18, cost=0.0) is None
    assert cross_section(np.zeros(270), moved[:270], positions=np.zeros(270, int), lag=18, cost=0.0) is None
