"""Choices of the night that the command line and the form share; imports nothing, so that `--help` is fast."""

from typing import Literal

Retrain = Literal["always", "drift", "weekly"]
"""Which stocks train in a night: all, those that drift, or those whose last training is a week old."""
