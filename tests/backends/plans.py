"""A database with 100,000 rows of each kind, and what the engine does with each statement on it."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from assistly.storage import PostgresBackend, SqliteBackend
from assistly.storage.engines.postgres.executor import CursorExecutor, PostgresExecutor
from assistly.storage.engines.postgres.wire import LibpqExecutor
from assistly.storage.engines.sqlite.connections import Connection as SqliteConnection

ROWS = 100_000
LOCKS = 30_000  # the ids are smallint
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

SMALL = {"assistly_metrics", "assistly_retention", "assistly_migrations"}
"""Tables that hold a handful of rows however large the database is."""

_QUEUE = """
INSERT INTO {t}queue_jobs (
    status, retries, created_at, updated_at, platform, scheduled_at, due_at, next_retry_at, content,
    idempotency_key, remote_id, posted_at, dead_letter_at, dead_letter_reason, claim, worker_id,
    lease_until, max_lateness, attention_at, publish_started_at
)
SELECT
    CASE WHEN n % 100 < 55 THEN 'posted' WHEN n % 100 < 80 THEN 'scheduled' WHEN n % 100 < 90 THEN 'retrying'
        WHEN n % 100 < 95 THEN 'dead_letter' WHEN n % 100 < 97 THEN 'processing'
        WHEN n % 100 = 98 THEN 'cancelled' ELSE 'scheduled' END,
    CASE WHEN n % 100 BETWEEN 80 AND 94 THEN 1 ELSE 0 END, AT[-86400 * 30 - n], AT[-n],
    'platform ' || (n % 10),
    CASE WHEN n % 100 BETWEEN 55 AND 79 THEN AT[60 * n] ELSE AT[-60 * n] END,
    CASE WHEN n % 100 BETWEEN 55 AND 79 THEN AT[60 * n] WHEN n % 100 BETWEEN 80 AND 89 THEN AT[n]
        ELSE AT[-60 * n] END,
    CASE WHEN n % 100 BETWEEN 80 AND 89 THEN AT[n] END, 'post number ' || n, 'key ' || n,
    CASE WHEN n % 100 < 55 THEN 'remote ' || n END, CASE WHEN n % 100 < 55 THEN AT[-60 * n] END,
    CASE WHEN n % 100 BETWEEN 90 AND 94 THEN AT[-n] END,
    CASE WHEN n % 100 = 93 THEN 'missed: it' WHEN n % 100 BETWEEN 90 AND 94 THEN 'refused' END,
    CASE WHEN n % 100 BETWEEN 55 AND 79 THEN 0 ELSE 1 END,
    CASE WHEN n % 100 BETWEEN 95 AND 96 THEN 'worker ' || (n % 7) END,
    CASE WHEN n % 1000 = 95 THEN AT[-n] WHEN n % 100 BETWEEN 95 AND 96 THEN AT[n] END,
    CASE WHEN n % 1000 = 999 THEN 60000000 END,
    CASE WHEN n % 1000 = 95 THEN AT[-n] WHEN n % 100 BETWEEN 95 AND 96 THEN AT[n]
        WHEN n % 1000 = 999 THEN AT[60 - 60 * n] END,
    CASE WHEN n % 100 = 94 THEN AT[-n] END
FROM numbers
"""

_OTHERS = [
    """INSERT INTO {t}sessions (user_id, session, version, updated_at)
    SELECT 'user ' || n, '{}', 1, AT[-n] FROM numbers""",
    """INSERT INTO {t}approvals (id, status, created_at, payload)
    SELECT 'approval ' || n, CASE WHEN n % 1000 = 0 THEN 'pending' ELSE 'approved' END, AT[-n], '{}'
    FROM numbers""",
    """INSERT INTO {t}idempotency (key, saved_at, value, completed)
    SELECT 'key ' || n, AT[-n], '{}', TRUE FROM numbers""",
    "INSERT INTO {t}nonces (nonce, timestamp_ms) SELECT 'nonce ' || n, MS - n * 1000 FROM numbers",
    """INSERT INTO {t}events (event_type, payload, created_at)
    SELECT 'type ' || (n % 10), '{}', AT[n - 100000] FROM numbers""",
    "INSERT INTO {t}store (kind, payload, updated_at) SELECT 'kind ' || n, '{}', AT[-n] FROM numbers",
    """INSERT INTO {t}documents (collection, key, data, version, updated_at)
    SELECT 'collection ' || (n % 3), 'key ' || n, '{}', 1, AT[-n] FROM numbers""",
    """INSERT INTO {t}worker_lock (id, name, owner_id, fence, held_since, held_until, acquired_at, expires_at)
    SELECT n, 'lock ' || n, 'owner', 1, AT[-n], AT[n], MS - n * 1000, MS + n * 1000 FROM numbers
    WHERE n <= LOCKS""",
]


def fill_statements(*, prefix: str, time: str, rows: int = ROWS) -> Iterator[str]:
    """`time` is SQL for so many seconds after NOW."""
    numbers = (
        f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows}) "
    )
    for template in (_QUEUE, *_OTHERS):
        text = template.replace("{t}", prefix).replace("MS", str(int(NOW.timestamp()) * 1000))
        text = text.replace("LOCKS", str(LOCKS))
        yield numbers + re.sub(r"AT\[([^]]+)\]", lambda match: time.format(match[1]), text)


@dataclass(frozen=True)
class Seen:
    """A statement that a store sent. `work` grows with the rows that it had to touch."""

    statement: str
    scans: tuple[str, ...]
    work: int
    plan: str

    def __str__(self) -> str:
        return f"{' '.join(self.statement.split())}\n  work {self.work}\n{self.plan}"


class Watch(ABC):
    """Explains each statement just before it runs."""

    most_work: int
    most_work_of_a_row: int

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    @contextmanager
    def watching(self) -> Iterator[list[Seen]]:
        """The statements sent within the block."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            self.seen = []
            self._install(monkeypatch)
            yield self.seen

    @abstractmethod
    def _install(self, monkeypatch: pytest.MonkeyPatch) -> None: ...


def is_explainable(statement: str) -> bool:
    first = statement.split(maxsplit=1)[0].upper()
    return first in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} and "assistly_" in statement


class SqliteWatch(Watch):
    """Work is counted in steps of the virtual machine: about ten for a row that is looked at, and sixty for
    a job that is deleted, with its indexes and a trigger."""

    most_work = 40_000
    most_work_of_a_row = 100
    _tick = 100

    def _install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("rows", "execute", "insert"):
            monkeypatch.setattr(SqliteConnection, name, self._wrapped(getattr(SqliteConnection, name)))

    def _wrapped(self, original: Any) -> Any:
        def wrapper(connection: Any, statement: str, params: Any = None) -> Any:
            params = params or {}
            if not is_explainable(statement):
                return original(connection, statement, params)
            raw = connection.raw
            lines = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", params).fetchall()]
            steps = 0

            def tick() -> int:
                nonlocal steps
                steps += self._tick
                return 0

            raw.set_progress_handler(tick, self._tick)
            try:
                return original(connection, statement, params)
            finally:
                raw.set_progress_handler(None, 0)
                self.seen.append(Seen(statement, full_scans(lines), steps, "\n".join(lines)))

        return wrapper


def full_scans(lines: Sequence[str]) -> tuple[str, ...]:
    """Of `EXPLAIN QUERY PLAN`: those that read a table from one end to the other."""
    # What is made within the statement has a line of its own that says how.
    made = {line.partition(" ")[2] for line in lines if line.startswith(("CO-ROUTINE ", "MATERIALIZE "))}
    return tuple(
        line
        for line in lines
        if line.startswith("SCAN ")
        and "INDEX" not in line
        and line.partition(" ")[2] not in made
        and line.split()[1] not in {"json_each", "CONSTANT", *SMALL}
    )


class PostgresWatch(Watch):
    """Work is counted in rows that scans returned or filtered out.

    Each statement is planned as often as it takes for the server to choose between plans for
    these parameters and a plan for all of them.
    """

    most_work = 2_000
    most_work_of_a_row = 4
    _times = 6

    def _install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for kind in (LibpqExecutor, CursorExecutor):
            for name in ("rows", "row", "execute"):
                monkeypatch.setattr(kind, name, self._watched(getattr(kind, name)))

    def _watched(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(
            executor: PostgresExecutor, statement: str, params: Mapping[str, Any] | None = None
        ) -> Any:
            if is_explainable(statement):
                with undone(executor):
                    self.seen.append(self._explain(executor.connection, statement, params or {}))
            return send(executor, statement, params or {})

        return wrapper

    def _explain(self, connection: psycopg.Connection[Any], query: str, params: Mapping[str, Any]) -> Seen:
        text, names = numbered(query)
        types = ", ".join(parameter_type(params[name]) for name in names)
        values = [params[name] for name in names]
        arguments = f"({', '.join(['%s'] * len(values))})" if values else ""
        execute = psycopg.ClientCursor(connection).mogrify(f"EXECUTE assistly_probe{arguments}", values)
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(f"PREPARE assistly_probe {f'({types})' if types else ''} AS {text}".encode())
        plans = [explained(cursor, f"EXPLAIN (FORMAT JSON) {execute}") for _ in range(self._times)]
        plans.append(explained(cursor, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {execute}"))
        cursor.execute("DEALLOCATE assistly_probe")
        scans = {scan for plan in plans for scan in sequential_scans(plan)}
        return Seen(query, tuple(sorted(scans)), touched_rows(plans[-1]), outline(plans[-1]))


@contextmanager
def undone(executor: PostgresExecutor) -> Iterator[None]:
    """Not with the driver's own transaction, which forgets every prepared statement when it is undone."""
    alone = executor.connection.pgconn.transaction_status == TransactionStatus.IDLE
    executor.command("BEGIN" if alone else "SAVEPOINT assistly_probe")
    yield
    executor.command("ROLLBACK" if alone else "ROLLBACK TO SAVEPOINT assistly_probe; RELEASE assistly_probe")


def numbered(query: str) -> tuple[str, list[str]]:
    """The statement with `$1` for `%(name)s`, and the names in that order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return re.sub(r"%(?:%|\((\w+)\)s)", number, query), names


def parameter_type(value: object) -> str:
    """What the driver declares for a parameter."""
    if isinstance(value, list):
        return f"{parameter_type(value[0])}[]".replace("unknown", "text")
    types = {bool: "boolean", int: "bigint", datetime: "timestamptz"}
    return types.get(type(value), "unknown")


def explained(cursor: psycopg.Cursor[tuple[Any, ...]], statement: str) -> dict[str, Any]:
    row = cursor.execute(statement.encode()).fetchone()
    assert row is not None
    answer = row[0] if isinstance(row[0], list) else json.loads(row[0])
    plan: dict[str, Any] = answer[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def sequential_scans(plan: dict[str, Any]) -> Iterator[str]:
    for node in nodes(plan):
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] not in SMALL:
            yield f"Seq Scan on {node['Relation Name']}"


def touched_rows(plan: dict[str, Any]) -> int:
    counts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    total: float = sum(
        node.get("Actual Loops", 0) * sum(node.get(count, 0) for count in counts)
        for node in nodes(plan)
        if node["Node Type"].endswith("Scan")
    )
    return round(total)


def outline(plan: dict[str, Any], depth: int = 1) -> str:
    keys = ("Relation Name", "Index Name", "Index Cond", "Filter", "Actual Rows", "Rows Removed by Filter")
    line = "  " * depth + " · ".join(
        [plan["Node Type"], *(f"{key}: {plan[key]}" for key in keys if key in plan)]
    )
    return "\n".join([line, *(outline(child, depth + 1) for child in plan.get("Plans", []))])


def fill_sqlite(backend: SqliteBackend) -> None:
    backend.migrate()
    time = f"({int(NOW.timestamp())} + ({{}})) * 1000000"
    with backend._database.transaction() as database:

        def fill(connection: Any) -> None:
            for statement in fill_statements(prefix="assistly_", time=time):
                connection.execute(statement)

        database.in_transaction(fill)


def fill_postgres(
    url: str, schema: str, *, rows: int = ROWS, analyzed: Literal["never", "empty", "full"] = "full"
) -> None:
    """`analyzed`: when the tables were vacuumed and analyzed, if ever; nothing else does that."""
    backend = PostgresBackend(url, schema=schema)
    backend.migrate()
    backend.close()
    time = f"(timestamptz '{NOW.isoformat()}' + ({{}}) * interval '1 second')"
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema])
        names = [f'"{schema}".{name}' for (name,) in tables.fetchall()]
        if analyzed != "full":
            for name in names:
                connection.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)".encode())
        if analyzed == "empty":
            _vacuum(connection, names)
        # Index-only scans need pages that VACUUM may mark, and it leaves those of commits not yet flushed.
        connection.execute("SET synchronous_commit = on")
        for statement in fill_statements(prefix=f'"{schema}".assistly_', time=time, rows=rows):
            connection.execute(statement.encode())
        if analyzed == "full":
            _vacuum(connection, names)


def _vacuum(connection: psycopg.Connection[Any], tables: Sequence[str]) -> None:
    for table in tables:
        connection.execute(f"VACUUM ANALYZE {table}".encode())
