"""Put if absent on Postgres, and the sessions of many tasks.

A prepared INSERT … ON CONFLICT in autocommit is one round trip and one commit. A batch is one statement,
one array to send, and one commit: COPY cannot skip what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..model import Environment, Measure, Numbers, throughput, times
from ..tasks import concurrent_calls
from ..workload import in_batches, nonce, now_ms
from .migrations import schema_script
from .postgres_jobs import Connection, connected

_NONCE = "INSERT INTO assistly_nonces (nonce, timestamp_ms) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_NONCES = """
INSERT INTO assistly_nonces (nonce, timestamp_ms) SELECT given, %s FROM unnest(%s::text[]) AS given
ON CONFLICT DO NOTHING RETURNING nonce
"""
_KEY = """
INSERT INTO assistly_idempotency (key, saved_at, completed, token, lease_until)
VALUES (%s, now(), FALSE, %s, now() + interval '1 minute') ON CONFLICT DO NOTHING
"""
_SESSION = """
INSERT INTO assistly_sessions (user_id, session) VALUES (%s, %s)
ON CONFLICT (user_id) DO UPDATE
SET session = excluded.session, version = assistly_sessions.version + 1, updated_at = now()
RETURNING version, updated_at
"""
SESSION = '{"drafts": ["Fresh bread at seven."]}'


@contextmanager
def keys_tables(environment: Environment) -> Iterator[tuple[str, Connection]]:
    with environment.new_schema() as schema, connected(environment.database_url, schema) as connection:
        connection.execute(schema_script("postgres").encode())
        yield schema, connection


@contextmanager
def put_nonce(environment: Environment) -> Iterator[Measure]:
    with keys_tables(environment) as (_, connection), connection.cursor() as cursor:

        def put(number: int) -> bool:
            return cursor.execute(_NONCE, (nonce(number), now_ms()), prepare=True).rowcount > 0

        yield throughput(times(put), Numbers())


@contextmanager
def put_nonces(environment: Environment) -> Iterator[Measure]:
    with keys_tables(environment) as (_, connection), connection.cursor() as cursor:
        numbers = Numbers()

        def put(batch: list[str]) -> int:
            new = {row[0] for row in cursor.execute(_NONCES, (now_ms(), batch), prepare=True)}
            return [name in new for name in batch].count(True)

        yield throughput(
            lambda batches: sum(map(put, batches)), lambda count: in_batches(map(nonce, numbers(count)))
        )


@contextmanager
def claim_key(environment: Environment) -> Iterator[Measure]:
    with keys_tables(environment) as (_, connection), connection.cursor() as cursor:

        def claim(number: int) -> bool:
            return cursor.execute(_KEY, (nonce(number), number), prepare=True).rowcount > 0

        yield throughput(times(claim), Numbers())


@contextmanager
def await_nonces(environment: Environment, callers: int) -> Iterator[Measure]:
    with _awaited(environment, callers, _NONCE, lambda name: (name, now_ms())) as measure:
        yield measure


@contextmanager
def await_sessions(environment: Environment, callers: int) -> Iterator[Measure]:
    with _awaited(environment, callers, _SESSION, lambda name: (name, SESSION)) as measure:
        yield measure


@contextmanager
def _awaited(
    environment: Environment, callers: int, statement: str, parameters: Callable[[str], Sequence[Any]]
) -> Iterator[Measure]:
    """psycopg's own pool, and one prepared statement in autocommit for each call."""
    from psycopg_pool import AsyncConnectionPool

    with keys_tables(environment) as (schema, _), asyncio.Runner() as runner:
        pool = AsyncConnectionPool(
            environment.database_url,
            kwargs={"autocommit": True, "options": f"-c search_path={schema}"},
            min_size=environment.pool_size,
            max_size=environment.pool_size,
            open=False,
        )
        query = statement.encode()

        async def call(name: str) -> bool:
            async with pool.connection() as connection:
                cursor = await connection.execute(query, parameters(name), prepare=True)
                return bool(cursor.rowcount > 0)

        runner.run(pool.open(wait=True))
        try:
            yield concurrent_calls(runner, call, callers)
        finally:
            runner.run(pool.close())
