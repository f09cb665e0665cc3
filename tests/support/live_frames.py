"""Issued forecasts for the tests of live scores and drift."""

import pandas as pd


def issued_frame(windows: pd.DataFrame, **paths: list) -> pd.DataFrame:
    """Build the issued frame of some windows with the given `median`, `lower` and `upper`, one path per window."""
    return pd.DataFrame(
        {
            "ticker": "DEMO",
            "version": 3,
            "origin": windows["origin"].dt.date.to_list(),
            "issued_at": windows["origin"].dt.tz_localize("UTC").to_list(),
            "late": False,
            "origin_close": [history[-1] for history in windows["history"]],
            "sigma": windows["sigma"].to_list(),
            "interval": 0.8,
            "target_dates": windows["target_dates"].to_list(),
            "provisional_dates": [()] * len(windows),
            **paths,
        }
    )
