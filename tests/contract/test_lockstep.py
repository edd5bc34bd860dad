"""Memory, SQLite and Postgres are asked the same, step by step, and must give one answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from assistly.storage import MemoryBackend, PostgresBackend, SqliteBackend
from assistly.storage.testing.fixtures import examples
from assistly.storage.testing.machines import Engine, QueueMachine, StorageMachine, run_machine


@pytest.fixture
def engines(tmp_path: Path, database_url: str, schema: str) -> Iterator[tuple[Engine, ...]]:
    path = tmp_path / "lockstep.db"
    with (
        closing(MemoryBackend()) as memory,
        closing(SqliteBackend(path)) as sqlite,
        closing(PostgresBackend(database_url, schema=schema)) as postgres,
    ):
        yield (
            Engine("memory", memory),
            Engine("SQLite", sqlite, lambda: SqliteBackend(path)),
            Engine("Postgres", postgres, lambda: PostgresBackend(database_url, schema=schema)),
        )


def test_the_queue_in_lockstep(engines: tuple[Engine, ...]) -> None:
    run_machine(QueueMachine, *engines, settings=examples(20))


def test_everything_in_lockstep(engines: tuple[Engine, ...]) -> None:
    run_machine(StorageMachine, *engines, settings=examples(15, steps=50))
