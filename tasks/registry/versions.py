"""Registered models by name and version: what they are called, and how one is found."""

import re
from typing import Any, Self

from tickerforge.features.config import FrozenModel
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.tickers import spelled, validate_ticker
from tickerforge.tasks.base.errors import NotRegistered
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of

CHALLENGER = "challenger"
CHAMPION = "champion"
PREFIX = "tickerforge-"


class RegisteredAdapter(FrozenModel):
    """A version of a ticker's registered model, which any machine can download; its text is `AAPL@7`."""

    ticker: str
    version: int

    @classmethod
    def parse(cls, text: str, *, tracking: Tracking) -> Self:
        """Find the version that a user names by `AAPL`, `AAPL@challenger` or `AAPL@7`; `AAPL` means the champion.

        Raises:
            TickerNameError: If the ticker is not a valid name.
            NotRegistered: If the text names no version, or the registry does not hold it.
            TrackingError: If MLflow does not answer.
        """
        ticker, alias = parse_spec(text)
        return cls.find(tracking, ticker, alias=alias)

    @classmethod
    def find(cls, tracking: Tracking, ticker: str, *, alias: str = CHAMPION) -> Self:
        """Find the version of a ticker that an alias or a version number names.

        Raises:
            TickerNameError: If the ticker is not a valid name.
            NotRegistered: If there is none; names the aliases that exist.
            TrackingError: If MLflow does not answer.
        """
        return cls.of(find_version(tracking, model_name(ticker), alias=alias))

    @classmethod
    def of(cls, record: Any) -> Self:
        """Return the version that MLflow's record describes."""
        return cls(ticker=record.name.removeprefix(PREFIX), version=int(record.version))

    def __str__(self) -> str:
        return f"{self.ticker}@{self.version}"

    @property
    def name(self) -> str:
        """Name of the ticker's model in the registry."""
        return model_name(self.ticker)

    @property
    def uri(self) -> str:
        """Address that `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"

    @property
    def is_pooled(self) -> bool:
        """Whether it was trained on all tickers together."""
        return self.ticker == POOL


def parse_spec(spec: str) -> tuple[str, str]:
    """Split `AAPL`, `AAPL@challenger` or `AAPL@3` into the ticker and the alias or version; by default the champion.

    Raises:
        TickerNameError: If the ticker is not a valid name.
        NotRegistered: If nothing follows the `@`.
    """
    ticker, separator, alias = spec.partition("@")
    if separator and not re.fullmatch(r"[A-Za-z0-9_-]+", alias):
        raise NotRegistered(f"{spec!r} names no version: write {ticker}@champion, {ticker}@challenger or {ticker}@3")
    return spelled(ticker), alias or CHAMPION


def model_name(ticker: str) -> str:
    """Return the name of a ticker's registered model: `tickerforge-{TICKER}`.

    Raises:
        TickerNameError: If the ticker is not a valid name.
    """
    return f"{PREFIX}{validate_ticker(ticker)}"


def find_version(tracking: Tracking, name: str, *, alias: str) -> Any:
    """Return MLflow's record of the version that an alias or a version number names.

    Raises:
        NotRegistered: If there is none; names the aliases that exist.
        TrackingError: If MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = client_of(tracking)
    with as_tracking_error(tracking.uri):
        try:
            if alias.isdigit():
                return client.get_model_version(name, alias)
            return client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            raise NotRegistered(_what_there_is(client, name, alias)) from error


def all_versions(tracking: Tracking, name: str) -> list[Any]:
    """Return MLflow's records of all versions of a model, newest first; raises MLflow's errors."""
    found = client_of(tracking).search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def aliases_of(tracking: Tracking, name: str) -> dict[str, str]:
    """Return the versions by alias; raises MLflow's errors."""
    from mlflow.exceptions import MlflowException

    try:
        found = client_of(tracking).get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: str(version) for alias, version in found.aliases.items()}


def _what_there_is(client: Any, name: str, alias: str) -> str:
    found = client.search_registered_models(filter_string=f"name = '{name}'")
    ticker = name.removeprefix(PREFIX)
    if not found:
        return f"nothing is registered for {ticker}: train it first with `tickerforge run --stock {ticker}`"
    known = ", ".join(f"{ticker}@{known}" for known in sorted(found[0].aliases))
    why = "; its adapters have not passed the gate yet" if alias == CHAMPION else ""
    return f"{ticker} has no {alias}{why}. There is {known or 'no alias at all'}: name that instead."
