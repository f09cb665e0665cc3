"""Errors of the flows package.

FlowsError (RuntimeError)
├── ConfigError           a setting that does not exist, or a value outside its range
├── MissingArtifactError  a stage was asked for whose inputs have not been made yet
└── PrefectUnavailable    neither the embedded Prefect nor the configured server answers
"""


class FlowsError(RuntimeError):
    """Any fault in what a command or a flow was asked to do."""


class ConfigError(FlowsError):
    """A setting that does not exist, or a value outside its range."""


class MissingArtifactError(FlowsError):
    """A stage was asked for whose inputs have not been made yet."""


class PrefectUnavailable(FlowsError):
    """Neither the embedded Prefect nor the configured server answers."""
