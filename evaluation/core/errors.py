"""Errors of the evaluation package.

EvaluationError (ValueError)
├── BaselineUnavailable a baseline whose library is not installed
├── ForecastsError      forecasts that do not match their windows: missing, repeated, of wrong shape, NaN or infinite
├── PredictionsError    a file of a user's forecasts that cannot be read or is about other windows
└── TrainRowsError      rows given for fitting a baseline that are not the train split
"""


class EvaluationError(ValueError):
    """Any fault in the inputs of the evaluation package."""


class BaselineUnavailable(EvaluationError):
    """A baseline whose library is not installed."""


class ForecastsError(EvaluationError):
    """Forecasts that do not match their windows."""


class PredictionsError(EvaluationError):
    """A file of forecasts that cannot be read, or is about other windows than the protocol's."""


class TrainRowsError(EvaluationError):
    """Rows given for fitting a baseline that are not exactly the train split."""
