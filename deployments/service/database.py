"""The databases of Prefect and MLflow: SQLite, or `TICKERFORGE_DATABASE=postgresql://user:password@host/prefix`."""

import os
from dataclasses import dataclass, field

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tickerforge.flows.errors import ConfigError
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.paths import Workspace

DATABASE_VARIABLE = "TICKERFORGE_DATABASE"
_DEFAULT_PREFIX = "tickerforge"
_FORM = "postgresql://user:password@host:5432/, optionally with a prefix for the database names after the last slash"
_MAINTENANCE_DATABASE = "postgres"
_CONNECT_SECONDS = 10
_LONGEST_PREFIX = 40
_EXISTS_ALREADY = "42P04"


@dataclass(frozen=True)
class Databases:
    """The databases of Prefect's and MLflow's servers.

    Attributes:
        prefect: URL for Prefect, with its asynchronous driver; may hold a password.
        mlflow: URL for MLflow; may hold a password.
        shown: Description without credentials.
    """

    prefect: str = field(repr=False)
    mlflow: str = field(repr=False)
    shown: str


def databases(workspace: Workspace) -> Databases:
    """Return the databases that `TICKERFORGE_DATABASE` names, or the SQLite files of the home, as in embedded mode.

    On PostgreSQL the databases `{prefix}_prefect` and `{prefix}_mlflow` are created if they are missing.

    Raises:
        ConfigError: If the setting is not a PostgreSQL address.
        ServiceError: If the server does not answer, or refuses the user.
    """
    if setting := os.environ.get(DATABASE_VARIABLE):
        return _on_postgresql(setting)
    prefect = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or workspace.prefect_url
    return Databases(prefect=prefect, mlflow=workspace.mlflow_url, shown=f"SQLite in {workspace.root}")


def _on_postgresql(setting: str) -> Databases:
    url = _parse(setting)
    prefix = url.database or _DEFAULT_PREFIX
    names = [f"{prefix}_{of}" for of in ("prefect", "mlflow")]
    for name in names:
        _create_if_missing(url.set(database=name))
    # asyncpg calls `ssl` what psycopg2 calls `sslmode`.
    ssl = {"ssl": url.query["sslmode"]} if "sslmode" in url.query else {}
    prefect = url.set(drivername="postgresql+asyncpg", database=names[0], query=ssl)
    return Databases(
        prefect=prefect.render_as_string(hide_password=False),
        mlflow=url.set(database=names[1]).render_as_string(hide_password=False),
        shown=f"PostgreSQL at {_place(url)} ({' and '.join(names)})",
    )


def _parse(setting: str) -> URL:
    # The setting holds a password: no message repeats it.
    try:
        url = make_url(setting)
    except (ArgumentError, ValueError):
        raise ConfigError(f"{DATABASE_VARIABLE} is not the address of a database: write {_FORM}") from None
    if url.drivername not in ("postgresql", "postgres") or not url.host:
        raise ConfigError(
            f"{DATABASE_VARIABLE} does not name a PostgreSQL server: write {_FORM}, or unset it for SQLite"
        )
    if unknown := set(url.query) - {"sslmode"}:
        raise ConfigError(
            f"{DATABASE_VARIABLE} has the unknown option {sorted(unknown)[0]!r}: only sslmode is supported"
        )
    if len(url.database or "") > _LONGEST_PREFIX:
        raise ConfigError(f"{DATABASE_VARIABLE} has a prefix of more than {_LONGEST_PREFIX} characters: shorten it")
    return url.set(drivername="postgresql+psycopg2")


def _create_if_missing(url: URL) -> None:
    try:
        _execute(url, "SELECT 1")
        return
    except SQLAlchemyError as error:
        first = error
    name = (url.database or "").replace('"', '""')
    try:
        _execute(url.set(database=_MAINTENANCE_DATABASE), f'CREATE DATABASE "{name}"')
    except SQLAlchemyError as error:
        is_there = getattr(getattr(error, "orig", None), "pgcode", None) == _EXISTS_ALREADY
        raise ServiceError(_refused(url, first if is_there else error)) from None


def _execute(url: URL, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": _CONNECT_SECONDS})
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def _refused(url: URL, error: SQLAlchemyError) -> str:
    reason = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
    return (
        f"PostgreSQL at {_place(url)} cannot be used: {reason}. Check {DATABASE_VARIABLE} and that the server runs; "
        f"its user must own the database {url.database}, or be allowed to create it."
    )


def _place(url: URL) -> str:
    return f"{url.host}:{url.port}" if url.port else str(url.host)
