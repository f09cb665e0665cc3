"""Errors of the tasks package.

TasksError (RuntimeError)
├── StoreError         the artifact store cannot be written or read: full disk, missing rights
├── StoreUnreachable   the shared store does not answer; worth another attempt
├── NotFinished        an artifact that may not be built now is not in the store
├── LockTimeout        another process holds a lock for too long
├── MarketDataError    a market source has no prices for the ticker
├── TrackingError      MLflow does not answer
│   └── TrackingRefused  MLflow answers and refuses the request; another attempt is useless
├── ServiceError       the service of `tickerforge up` cannot be started, or runs only in part
├── NotRegistered      MLflow has nothing under the name
└── PublishError       a results, models or pull folder cannot be written or must not be replaced
"""


class TasksError(RuntimeError):
    """Any fault at the border between the pipeline and disk, network, MLflow or Prefect."""


class StoreError(TasksError):
    """The artifact store cannot be written or read."""


class StoreUnreachable(TasksError):
    """The shared store does not answer; worth another attempt."""


class NotFinished(TasksError):
    """An artifact that may not be built now is not in the store."""


class LockTimeout(TasksError):
    """Another process holds a lock for too long."""


class MarketDataError(TasksError):
    """A market source has no prices for the ticker."""


class TrackingError(TasksError):
    """MLflow does not answer."""


class TrackingRefused(TrackingError):
    """MLflow answers and refuses the request; another attempt is useless."""


class ServiceError(TasksError):
    """The service of `tickerforge up` cannot be started, or runs only in part."""


class NotRegistered(TasksError):
    """MLflow has nothing under the name."""


class PublishError(TasksError):
    """A folder for people cannot be written, or holds something that must not be replaced."""
