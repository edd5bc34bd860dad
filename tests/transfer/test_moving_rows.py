"""Whatever one engine reads, another one writes, and reads again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from assistly.storage import MemoryBackend, PostgresBackend, SqliteBackend
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.transfer import ROW_KINDS
from transfer.moving_rows import all_rows, answers, filled

MakeEngine = Callable[[str], MovingBackend]


@pytest.fixture
def make(tmp_path: Path, database_url: str, new_schema: Callable[[], str]) -> Iterator[MakeEngine]:
    with ExitStack() as stack:
        numbers = iter(range(100))

        def make_one(engine: str) -> MovingBackend:
            backend: MovingBackend
            if engine == "sqlite":
                backend = SqliteBackend(tmp_path / f"{next(numbers)}.db")
            elif engine == "postgres":
                backend = PostgresBackend(database_url, schema=new_schema())
            else:
                backend = MemoryBackend()
            stack.callback(backend.close)
            return backend

        yield make_one


@pytest.mark.parametrize("last", ["memory", "sqlite", "postgres"])
@pytest.mark.parametrize("first", ["memory", "sqlite", "postgres"])
def test_every_record_moves(make: MakeEngine, first: str, last: str) -> None:
    source, target = make(first), make(last)
    filled(source)
    rows = all_rows(source)
    assert {kind for kind, found in rows.items() if not found} == set()
    for kind in ROW_KINDS:
        target.write_rows(kind, rows[kind], after=None, through=None)
    assert all_rows(target) == rows
    assert answers(target) == answers(source)
