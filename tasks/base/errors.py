"""Errors of the tasks package.

TasksError (RuntimeError)
├── StoreError         the artifact store cannot be written or read: full disk, missing rights
├── StoreUnreachable   the shared store does not answer; worth another attempt
├── MarketDataError    a market source holds no prices for the ticker asked for
├── TrackingError      MLflow does not answer
│   └── TrackingRefused  MLflow answers, and refuses what it was told: another attempt is no use
├── ServiceError       the service of `tickerforge up` cannot be started, or is not as it should be
├── NotRegistered      MLflow holds nothing under the name asked for
└── PublishError       a results, models or pull folder cannot be written or must not be replaced
"""


class TasksError(RuntimeError):
    """Any fault at the border between the pipeline and disk, network, MLflow or Prefect."""


class StoreError(TasksError):
    """The artifact store cannot be written or read."""


class StoreUnreachable(TasksError):
    """The shared store does not answer; worth another attempt."""


class NotFinished(TasksError):
    """An artifact was looked for that is not in the store, and may not be built."""


class MarketDataError(TasksError):
    """A market source holds no prices for the ticker asked for."""


class TrackingError(TasksError):
    """MLflow does not answer."""


class TrackingRefused(TrackingError):
    """MLflow answers, and refuses what it was told: another attempt is no use."""


class ServiceError(TasksError):
    """The service of `tickerforge up` cannot be started, or is not as it should be."""


class NotRegistered(TasksError):
    """MLflow holds nothing under the name asked for."""


class PublishError(TasksError):
    """A folder for people cannot be written, or holds something that must not be replaced."""
