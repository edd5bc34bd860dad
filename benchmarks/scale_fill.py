"""Databases that look as if they had been in use for long: the engine makes the rows itself, in SQL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from assistly.storage import open_storage

PLATFORMS = 10
RECORDS = 1_000_000
"""The most events, and the most nonces, that a database gets."""

_CHUNK = 250_000

# One job was posted each second, and the last one is the youngest.
_JOBS = """
INSERT INTO {t}queue_jobs (
    status, created_at, updated_at, platform, scheduled_at, due_at, content, idempotency_key, remote_id,
    posted_at, dead_letter_at, dead_letter_reason, claim
)
SELECT
    '{status}', AT[n - {last}], AT[n - {last}], 'platform ' || (n % {platforms}), AT[{when}], AT[{when}],
    'Post number ' || n || '. What a bakery in Leeds has to tell its neighbours on an ordinary weekday: '
        || 'bread at seven, rolls at eight, and what is left at half price after five.',
    RANDOM, {remote_id}, {posted_at}, {dead_at}, {reason}, 1
FROM numbers
"""
_POSTED = {
    "status": "posted",
    "when": "n - {last}",
    "remote_id": "'remote-' || n",
    "posted_at": "AT[n - {last}]",
}
_DEAD = {"status": "dead_letter", "when": "n - {last}", "dead_at": "AT[n - {last}]", "reason": "'refused'"}
_FUTURE = {"status": "scheduled", "when": "86400 + n * 60"}
_NOTHING = dict.fromkeys(("remote_id", "posted_at", "dead_at", "reason"), "NULL")

_EVENTS = """
INSERT INTO {t}events (event_type, payload, created_at)
SELECT 'type ' || (n % 10), ('{{"job": ' || n || '}}')JSONB, AT[n - {last}] FROM numbers
"""
_NONCES = "INSERT INTO {t}nonces (nonce, timestamp_ms) SELECT RANDOM, MS[n - {last}] FROM numbers"
_KEYS = """
INSERT INTO {t}idempotency (key, saved_at, value, completed)
SELECT RANDOM, AT[n - {last}], 'true'JSONB, TRUE FROM numbers
"""


@dataclass(frozen=True, slots=True)
class History:
    """How many records there are, at which moment."""

    finished: int
    now: datetime
    dead: int = 1_000
    future: int = 10_000

    @property
    def records(self) -> int:
        return min(self.finished, RECORDS)


@dataclass(frozen=True, slots=True)
class _Dialect:
    prefix: str
    time: str
    random: str
    jsonb: str = ""

    def render(self, template: str, now: datetime, first: int, last: int) -> str:
        text = template.replace("RANDOM", self.random).replace("JSONB", self.jsonb)
        seconds = int(now.timestamp())
        text = re.sub(r"AT\[([^]]+)\]", lambda match: self.time.format(seconds, match[1]), text)
        text = re.sub(r"MS\[([^]]+)\]", lambda match: f"({seconds} + ({match[1]})) * 1000", text)
        numbers = f"SELECT CAST({first} AS bigint) UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}"
        return f"WITH RECURSIVE numbers (n) AS ({numbers}) {text}"


def _statements(history: History, dialect: _Dialect) -> Iterator[str]:
    kinds = [
        (_jobs(_POSTED), history.finished),
        (_jobs(_DEAD), history.dead),
        (_jobs(_FUTURE), history.future),
        (_EVENTS, history.records),
        (_NONCES, history.records),
        (_KEYS, min(history.records, 10_000)),
    ]
    for template, rows in kinds:
        text = template.format(t=dialect.prefix, last=rows, platforms=PLATFORMS)
        for first in range(1, rows + 1, _CHUNK):
            yield dialect.render(text, history.now, first, min(rows, first + _CHUNK - 1))


def _jobs(fields: dict[str, str]) -> str:
    text = _JOBS
    for name, value in {**_NOTHING, **fields}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def fill_postgres(url: str, schema: str, history: History) -> None:
    with open_storage(engine="postgres", database_url=url, schema=schema, auto_prune=False):
        pass
    dialect = _Dialect(
        prefix=f'"{schema}".assistly_',
        time="(to_timestamp({}) + ({}) * interval '1 second')",
        random="gen_random_uuid()::text",
        jsonb="::jsonb",
    )
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _statements(history, dialect):
            connection.execute(statement.encode())
        # Index-only scans need pages that VACUUM may mark, and it leaves those of commits not yet flushed.
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema])
        for (table,) in tables.fetchall():
            connection.execute(f'VACUUM ANALYZE "{schema}".{table}'.encode())
        connection.execute("CHECKPOINT")


def fill_sqlite(path: Path, history: History) -> None:
    with open_storage(engine="sqlite", sqlite_path=str(path), auto_prune=False):
        pass
    dialect = _Dialect(
        prefix="assistly_", time="(({} + ({})) * 1000000)", random="lower(hex(randomblob(16)))"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        for statement in _statements(history, dialect):
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def this_second() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
