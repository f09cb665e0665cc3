import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.exc import OperationalError

from tickerforge.flows.server.sqlite import PatientSqlite


async def two_writers(configuration: AioSqliteConfiguration) -> int:
    """Read in one transaction, let another one write, then write in the first; return the number of rows."""
    engine = await configuration.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE rows (name TEXT)"))

    async def write(name: str) -> None:
        session = await configuration.session(engine)
        async with session, configuration.begin_transaction(session):
            await session.execute(sa.text("INSERT INTO rows VALUES (:name)"), {"name": name})

    first = await configuration.session(engine)
    async with first, configuration.begin_transaction(first):
        await first.execute(sa.text("SELECT * FROM rows"))
        second = asyncio.create_task(write("second"))
        # Long enough for the second to finish, or to wait for the first.
        await asyncio.sleep(0.3)
        await first.execute(sa.text("INSERT INTO rows VALUES ('first')"))
    await second
    async with engine.connect() as connection:
        return int((await connection.execute(sa.text("SELECT count(*) FROM rows"))).scalar_one())


def test_two_transactions_that_read_and_write_both_succeed(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    assert asyncio.run(two_writers(PatientSqlite(connection_url=url))) == 2


def test_prefects_own_configuration_still_needs_ours(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(two_writers(AioSqliteConfiguration(connection_url=url)))
