"""A transaction that is rolled back when nobody waits for it any more.

It needs ``sqlalchemy[asyncio]`` and ``aiosqlite``. Serve it with ``uvicorn fastapi_database:app``.
SQLAlchemy needs asyncio, so this one does not run on Trio.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from cancelable_fastapi import RequestCancelationMiddleware

SECONDS = 20.0  # what the slow part of the pretended transfer takes

engine = create_async_engine("sqlite+aiosqlite:///bank.db")


@asynccontextmanager
async def transaction() -> AsyncIterator[AsyncConnection]:
    connection = await engine.connect()
    try:
        yield connection
        await connection.commit()
    finally:
        # The rollback is a statement that has to be sent and answered: without the shield the
        # cancelation that is on its way would cut it as well. After a commit there is nothing
        # to roll back.
        with anyio.move_on_after(5, shield=True):
            await connection.rollback()
            await connection.close()


@asynccontextmanager
async def open_bank(_app: FastAPI) -> AsyncIterator[None]:
    async with transaction() as connection:
        table = "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, euros INTEGER)"
        await connection.execute(text(table))
        rows = "INSERT OR IGNORE INTO accounts VALUES ('ann', 100), ('bob', 0)"
        await connection.execute(text(rows))
    yield
    await engine.dispose()


app = FastAPI(lifespan=open_bank)
app.add_middleware(RequestCancelationMiddleware)


@app.post("/transfer")
async def transfer(euros: int) -> dict[str, str]:
    async with transaction() as connection:
        take = "UPDATE accounts SET euros = euros - :euros WHERE name = 'ann'"
        await connection.execute(text(take), {"euros": euros})
        print("the money has been taken")
        await anyio.sleep(SECONDS)  # a check with the other bank
        give = "UPDATE accounts SET euros = euros + :euros WHERE name = 'bob'"
        await connection.execute(text(give), {"euros": euros})
    return {"transfer": "done"}


@app.get("/accounts")
async def accounts() -> dict[str, int]:
    async with transaction() as connection:
        rows = await connection.execute(text("SELECT name, euros FROM accounts"))
        return {row.name: row.euros for row in rows}
