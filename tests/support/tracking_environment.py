"""Keeps MLflow's address of one test out of the next."""

import pytest


def forget_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset MLflow's address, which MLflow leaves in the environment, now and when the patch is undone."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
