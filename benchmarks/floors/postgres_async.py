"""Concurrent tasks: psycopg's own pool, and one prepared statement in autocommit for each call.

asyncpg is faster with many callers, and is measured beside it: the goals are set against the driver
that the engine uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from psycopg_pool import AsyncConnectionPool

from ..gathering import gathered
from ..model import Round, Surroundings
from .alone import run_alone
from .postgres_put import INSERT, now_ms
from .postgres_put import TABLE as NONCES
from .postgres_table import connected

_SESSIONS = """
CREATE TABLE sessions (
    user_id text PRIMARY KEY,
    session jsonb NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON sessions (updated_at);
"""
_PUT = """
INSERT INTO sessions (user_id, session) VALUES (%s, %s)
ON CONFLICT (user_id) DO UPDATE
SET session = excluded.session, version = sessions.version + 1, updated_at = now()
RETURNING version
"""
SESSION = '{"drafts": ["Fresh bread at seven."]}'


@contextmanager
def nonces(at: Surroundings, callers: int) -> Iterator[Round]:
    with _calls(at, callers, NONCES, INSERT, lambda name: (name, now_ms())) as measure:
        yield measure


@contextmanager
def sessions(at: Surroundings, callers: int) -> Iterator[Round]:
    with _calls(at, callers, _SESSIONS, _PUT, lambda name: (name, SESSION)) as measure:
        yield measure


@contextmanager
def _calls(
    at: Surroundings, callers: int, table: str, statement: str, parameters: Callable[[str], tuple[Any, ...]]
) -> Iterator[Round]:
    with at.new_schema() as schema, asyncio.Runner() as runner:
        with connected(at.database_url, schema) as connection:
            connection.execute(table)
        pool = AsyncConnectionPool(
            at.database_url,
            kwargs={"autocommit": True, "options": f"-c search_path={schema}"},
            min_size=at.pool_size,
            max_size=at.pool_size,
            open=False,
        )

        async def call(name: str) -> bool:
            async with pool.connection() as connection:
                return (await connection.execute(statement, parameters(name), prepare=True)).rowcount > 0

        runner.run(pool.open(wait=True))
        try:
            yield gathered(runner, call, callers)
        finally:
            runner.run(pool.close())


if __name__ == "__main__":
    run_alone(partial(nonces, callers=10), 2000)
