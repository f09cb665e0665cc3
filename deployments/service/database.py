"""One setting for the databases of Prefect and MLflow: `TICKERFORGE_DATABASE=postgresql://user:password@host/prefix`."""

import os
from dataclasses import dataclass, field

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tickerforge.flows.errors import ConfigError
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.paths import Workspace

VARIABLE = "TICKERFORGE_DATABASE"
DEFAULT_PREFIX = "tickerforge"
FORM = (
    "postgresql://user:password@host:5432/, with a prefix for the names of the databases after the last slash if wanted"
)
MAINTENANCE_DATABASE = "postgres"
CONNECT_SECONDS = 10
_LONGEST_PREFIX = 40
_EXISTS_ALREADY = "42P04"


@dataclass(frozen=True)
class Databases:
    """Where Prefect's and MLflow's servers keep what they know.

    Attributes:
        prefect: URL for Prefect, with its asynchronous driver; may hold a password.
        mlflow: URL for MLflow; may hold a password.
        shown: What may be shown to people.
    """

    prefect: str = field(repr=False)
    mlflow: str = field(repr=False)
    shown: str


def databases(workspace: Workspace) -> Databases:
    """The databases that `TICKERFORGE_DATABASE` names, or the home's SQLite files, which the embedded mode uses too.

    Two databases are made on the PostgreSQL server where they are missing: `{prefix}_prefect` and `{prefix}_mlflow`.

    Raises:
        ConfigError: If the setting is no PostgreSQL address.
        ServiceError: If the server does not answer, or refuses the user.
    """
    if setting := os.environ.get(VARIABLE):
        return _on_postgresql(setting)
    prefect = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or f"sqlite+aiosqlite:///{workspace.prefect_db}"
    return Databases(prefect=prefect, mlflow=f"sqlite:///{workspace.mlflow_db}", shown=f"SQLite in {workspace.root}")


def _on_postgresql(setting: str) -> Databases:
    url = _parse(setting)
    prefix = url.database or DEFAULT_PREFIX
    names = [f"{prefix}_{of}" for of in ("prefect", "mlflow")]
    for name in names:
        _create_if_missing(url.set(database=name))
    # Each driver has its own word for the same thing.
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
        raise ConfigError(f"{VARIABLE} is no address of a database: write {FORM}") from None
    if url.drivername not in ("postgresql", "postgres") or not url.host:
        raise ConfigError(f"{VARIABLE} names no PostgreSQL server: write {FORM}, or unset it for SQLite")
    if unknown := set(url.query) - {"sslmode"}:
        raise ConfigError(f"{VARIABLE} has the option {sorted(unknown)[0]!r}: only sslmode is known")
    if len(url.database or "") > _LONGEST_PREFIX:
        raise ConfigError(f"{VARIABLE} has a prefix of more than {_LONGEST_PREFIX} characters")
    return url.set(drivername="postgresql+psycopg2")


def _create_if_missing(url: URL) -> None:
    try:
        _execute(url, "SELECT 1")
        return
    except SQLAlchemyError as error:
        first = error
    name = (url.database or "").replace('"', '""')
    try:
        _execute(url.set(database=MAINTENANCE_DATABASE), f'CREATE DATABASE "{name}"')
    except SQLAlchemyError as error:
        is_there = getattr(getattr(error, "orig", None), "pgcode", None) == _EXISTS_ALREADY
        raise ServiceError(_refused(url, first if is_there else error)) from None


def _execute(url: URL, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": CONNECT_SECONDS})
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def _refused(url: URL, error: SQLAlchemyError) -> str:
    reason = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
    return (
        f"PostgreSQL at {_place(url)} cannot be used: {reason}. Check {VARIABLE} and that the server runs; its user "
        f"must own the database {url.database}, or be allowed to create it."
    )


def _place(url: URL) -> str:
    return f"{url.host}:{url.port}" if url.port else str(url.host)
