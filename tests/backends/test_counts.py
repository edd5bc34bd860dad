"""Counting of many dead letters, which is limited by a number in the SQL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from assistly.storage import JobStatus, NewJob, PostgresBackend, SqliteBackend, Storage, TimelineCount
from assistly.storage.engine.counting import DEAD_LETTERS
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.testing.fixtures import DAY, MINUTE, START

_GIVE_UP = """
    UPDATE assistly_queue_jobs
    SET status = 'dead_letter', dead_letter_reason = 'refused', dead_letter_at = due_at
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_of_many_dead_letters_the_newest_are_in_the_timeline(
    engine: str, tmp_path: Path, database_url: str, new_schema: Callable[[], str]
) -> None:
    path, schema = tmp_path / "counts.db", new_schema()
    backend = SqliteBackend(path) if engine == "sqlite" else PostgresBackend(database_url, schema=schema)
    jobs = [NewJob("old", "a", START)] * 3
    jobs += [NewJob("x", "a", START), NewJob("y", "a", START + 2 * MINUTE)] * (DEAD_LETTERS // 2)
    with Storage(backend, clock=lambda: START, auto_prune=False) as storage:
        old = storage.queue.schedule_many(jobs, returning="ids")[:3]
        if engine == "sqlite":
            with closing(sqlite3.connect(path)) as file:
                file.execute(_GIVE_UP)
                file.commit()
        else:
            with psycopg.connect(database_url, options=f"-c search_path={schema}") as server:
                server.execute(_GIVE_UP.encode())
        for is_exact in (False, True):
            assert storage.queue.timeline([START, START + MINUTE, START + DAY]) == [
                TimelineCount(START, "x", JobStatus.DEAD_LETTER, DEAD_LETTERS // 2, is_exact),
                TimelineCount(START + MINUTE, "y", JobStatus.DEAD_LETTER, DEAD_LETTERS // 2, is_exact),
            ]
            for id in old:
                storage.queue.remove(id)
