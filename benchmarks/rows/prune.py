"""Retention: 60 % of the finished jobs are old."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

from assistly.storage import Storage
from assistly.storage.engine.protocol import StorageBackend
from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.retention import RetentionPolicy

from ..floors import postgres_prune
from ..floors.postgres_table import connected
from ..model import Contender, Figure, Round, Row, Surroundings

_FILL = """
INSERT INTO assistly_queue_jobs (
    status, platform, content, scheduled_at, due_at, claim, created_at, updated_at, posted_at
)
SELECT 'posted', 'mastodon', 'Fresh bread at seven, and rolls from batch ' || number || '.',
    at, at, 1, at, at, at
FROM (
    SELECT number, now() - %s::interval + number * interval '1 ms' AS at
    FROM generate_series(1, %s) AS number
) AS jobs
"""


class _TimedStore:
    """Times the calls of a store; each is one statement."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.longest = 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._store, name)

        def timed(*args: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            answer = call(*args, **keywords)
            self.longest = max(self.longest, time.perf_counter() - began)
            return answer

        return timed


class _TimedBackend:
    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend
        self.retention = _TimedStore(backend.retention)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@contextmanager
def _assistly(at: Surroundings) -> Iterator[Round]:
    with at.new_schema() as schema:
        backend = _TimedBackend(PostgresBackend(at.database_url, pool_size=at.pool_size, schema=schema))
        policy = RetentionPolicy(posted_age=postgres_prune.AGE)
        opened = Storage(cast("StorageBackend", backend), retention=policy, auto_prune=False)
        with opened as storage, connected(at.database_url, schema) as connection:
            storage.ping()

            def prune() -> tuple[int, float]:
                backend.retention.longest = 0.0
                return storage.prune(force=True).posted, backend.retention.longest

            def insert(count: int, age: timedelta) -> None:
                connection.execute(_FILL, (age, count))

            def vacuum() -> None:
                connection.execute("VACUUM (ANALYZE) assistly_queue_jobs")

            yield postgres_prune.pruning(prune, insert, vacuum)


ROWS = (
    Row(
        "pg-prune",
        "prune 60 % of the finished jobs, Postgres",
        (
            Figure("rows/s", 0.50),
            Figure("ms, longest statement", 50.0, more_is_better=False, absolute=True),
        ),
        {"tiny": 60, "quick": 60_000, "full": 600_000},
        (Contender("raw driver", postgres_prune.floor, role="floor"), Contender("Assistly", _assistly)),
        rounds={"tiny": 1, "quick": 3, "full": 5},
    ),
)
