"""Errors of the evaluation package.

EvaluationError (ValueError)
├── BaselineUnavailable a baseline whose library is not installed
├── ForecastsError      forecasts that do not fit the windows they answer: missing, doubled, misshapen or not finite
├── PredictionsError    a file of somebody's own forecasts that cannot be read or is about other windows
└── TrainRowsError      rows offered for fitting a baseline that are not the train split
"""


class EvaluationError(ValueError):
    """Any fault in what the evaluation package was given."""


class BaselineUnavailable(EvaluationError):
    """A baseline whose library is not installed."""


class ForecastsError(EvaluationError):
    """Forecasts that do not fit the windows they answer."""


class PredictionsError(EvaluationError):
    """A file of forecasts that cannot be read, or is about other windows than the protocol's."""


class TrainRowsError(EvaluationError):
    """Rows offered for fitting a baseline that are not exactly the train split."""
