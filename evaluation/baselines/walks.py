"""Free forecast distributions: a random walk scaled by σ60, the same scaled by HAR volatility, and drift with bands."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import RANDOM_WALK, RANDOM_WALK_HAR, Floats
from tickerforge.evaluation.core.errors import TrainRowsError
from tickerforge.evaluation.core.frames import log_moves
from tickerforge.evaluation.core.recalibration import MEMBERS, PERCENTILES
from tickerforge.evaluation.core.volatility import Volatility, fit_volatility


@dataclass(frozen=True)
class Walk:
    """A distribution of paths: the log return k sessions ahead is ``volatility · sqrt(k) · table[:, k - 1]``.

    Each column of `table` (MEMBERS, h) has the percentiles of the standardised moves of the train windows. A row is one
    path: in its ranks it follows a train window (Schaake shuffle; Clark et al. 2004, J. Hydrometeorology 5), and these
    windows are evenly spread by their last move.
    """

    table: Floats
    volatility: Volatility

    def log_paths(self, windows: pd.DataFrame, *, centred: bool = False) -> Floats:
        """Return log returns from the origin, shape (n, MEMBERS, h); with median 0 if `centred`."""
        table = self.table - np.median(self.table, axis=0) if centred else self.table
        return np.asarray(self._scale(windows)[:, None, :] * table)

    def log_medians(self, windows: pd.DataFrame) -> Floats:
        """Return the medians of `log_paths`, shape (n, h)."""
        return np.asarray(self._scale(windows) * np.median(self.table, axis=0))

    def _scale(self, windows: pd.DataFrame) -> Floats:
        return np.asarray(self.volatility.of(windows)[:, None] * np.sqrt(np.arange(1, self.table.shape[1] + 1)))


def fit_walks(windows: pd.DataFrame) -> Mapping[str, Walk]:
    """Fit `random_walk` and `random_walk_har` on train windows: of one ticker, or of a pool together.

    Args:
        windows: Windows frame; only its train split is used.

    Raises:
        TrainRowsError: The frame has no train windows.
    """
    train = windows[windows["split"] == "train"]
    if train.empty:
        raise TrainRowsError("the free forecasts are fitted on train windows, and there is none: give all windows")
    moves = log_moves(train)
    return {
        name: Walk(_table(moves / volatility.of(train)[:, None]), volatility)
        for name, volatility in ((RANDOM_WALK, Volatility()), (RANDOM_WALK_HAR, fit_volatility(train)))
    }


def _table(moves: Floats) -> Floats:
    """Return the percentiles of moves (n, h), in units of one day's volatility, as joint paths (MEMBERS, h)."""
    standardised = moves / np.sqrt(np.arange(1, moves.shape[1] + 1))
    percentiles = np.quantile(standardised, PERCENTILES, axis=0, method="weibull")
    by_last_move = np.argsort(standardised[:, -1], kind="stable")
    followed = by_last_move[np.linspace(0, len(moves) - 1, MEMBERS).round().astype(int)]
    ranks = np.argsort(np.argsort(standardised[followed], axis=0, kind="stable"), axis=0, kind="stable")
    return np.take_along_axis(percentiles, ranks, axis=0)
