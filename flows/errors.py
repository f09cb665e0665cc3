"""Errors of the flows package.

FlowsError (RuntimeError)
├── ConfigError           a setting that does not exist, or a value outside its range
├── MissingArtifactError  the inputs of a stage have not been made yet
├── PrefectUnavailable    neither the embedded Prefect nor the configured server answers
├── StageFailed           a heavy stage failed where it ran, on another worker
│   └── StageRefused      it refuses its inputs; the same inputs are refused again
├── ChampionChanged       another champion has replaced the one that a challenger was compared with
└── NightFailed           some tickers of a night failed; the others are finished
"""


class FlowsError(RuntimeError):
    """Any error in a command or a flow."""


class ConfigError(FlowsError):
    """A setting that does not exist, or a value outside its range."""


class MissingArtifactError(FlowsError):
    """The inputs of a stage have not been made yet."""


class PrefectUnavailable(FlowsError):
    """Neither the embedded Prefect nor the configured server answers."""


class StageFailed(FlowsError):
    """A heavy stage failed where it ran, on another worker."""


class StageRefused(StageFailed):
    """A heavy stage refuses its inputs; the same inputs are refused again."""


class ChampionChanged(FlowsError):
    """Another champion has replaced the one that a challenger was compared with."""


class NightFailed(FlowsError):
    """Some tickers of a night failed; the others are finished."""
