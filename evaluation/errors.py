"""Errors of the evaluation package.

EvaluationError (ValueError)
├── ForecastsError      forecasts that do not fit the windows they answer: missing, doubled, misshapen or not finite
└── TrainRowsError      rows offered for fitting a baseline that are not the train split
"""


class EvaluationError(ValueError):
    """Any fault in what the evaluation package was given."""


class ForecastsError(EvaluationError):
    """Forecasts that do not fit the windows they answer."""


class TrainRowsError(EvaluationError):
    """Rows offered for fitting a baseline that are not exactly the train split."""
