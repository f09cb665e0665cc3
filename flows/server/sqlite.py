"""Prefect's SQLite database without "database is locked": a transaction that may write takes the write lock first."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


class PatientSqlite(AioSqliteConfiguration):
    """Prefect's SQLite, with `BEGIN IMMEDIATE` instead of `BEGIN DEFERRED`.

    In a deferred transaction that reads first and writes later, SQLite refuses the write at once if another connection
    has written meanwhile, however long the busy timeout is: https://www.sqlite.org/isolation.html.
    """

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Begin a transaction that waits for the write lock."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def wait_for_write_lock() -> None:
    """Make Prefect's server in this process use `PatientSqlite`, if its database is SQLite."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = PatientSqlite(connection_url=url)
