"""Errors of the flows package.

FlowsError (RuntimeError)
├── ConfigError           a setting that does not exist, or a value outside its range
├── MissingArtifactError  a stage was asked for whose inputs have not been made yet
├── PrefectUnavailable    neither the embedded Prefect nor the configured server answers
├── StageFailed           a heavy stage failed where it ran, on another worker
│   └── StageRefused      it refuses its inputs, and would refuse them again
├── ChampionChanged       the champion that a challenger was compared with is not the champion any more
└── NightFailed           some tickers of a night failed; the others are done
"""


class FlowsError(RuntimeError):
    """Any fault in what a command or a flow was asked to do."""


class ConfigError(FlowsError):
    """A setting that does not exist, or a value outside its range."""


class MissingArtifactError(FlowsError):
    """A stage was asked for whose inputs have not been made yet."""


class PrefectUnavailable(FlowsError):
    """Neither the embedded Prefect nor the configured server answers."""


class StageFailed(FlowsError):
    """A heavy stage failed where it ran, on another worker."""


class StageRefused(StageFailed):
    """A heavy stage refuses its inputs, and would refuse them again."""


class ChampionChanged(FlowsError):
    """The champion that a challenger was compared with is not the champion any more."""


class NightFailed(FlowsError):
    """Some tickers of a night failed; the others are done."""
