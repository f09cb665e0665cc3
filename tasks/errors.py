"""Errors of the tasks package.

TasksError (RuntimeError)
├── StoreError         the artifact store cannot be written or read: full disk, missing rights
├── MarketDataError    a market source holds no prices for the ticker asked for
├── TrackingError      MLflow does not answer
├── NotRegistered      MLflow holds nothing under the name asked for
└── PublishError       a results, models or pull folder cannot be written or must not be replaced
"""


class TasksError(RuntimeError):
    """Any fault at the border between the pipeline and disk, network, MLflow or Prefect."""


class StoreError(TasksError):
    """The artifact store cannot be written or read."""


class MarketDataError(TasksError):
    """A market source holds no prices for the ticker asked for."""


class TrackingError(TasksError):
    """MLflow does not answer."""


class NotRegistered(TasksError):
    """MLflow holds nothing under the name asked for."""


class PublishError(TasksError):
    """A folder for people cannot be written, or holds something that must not be replaced."""
