"""Any number of processes may start at once on an empty database."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psycopg
import pytest

from assistly.storage import PostgresBackend, SqliteBackend, Storage

PROCESSES = 8
ROUNDS = 10
PATIENCE = 60.0
IMPORTED_ONCE = ["pytest", "assistly.storage.engines.postgres", "assistly.storage.engines.sqlite"]


@dataclass(frozen=True)
class Round:
    """What every process opens. `place` is a URL, or the path of a file."""

    place: str
    schema: str | None = None

    def open(self) -> Storage:
        if self.schema is None:
            return Storage(SqliteBackend(self.place), auto_prune=False)
        return Storage(PostgresBackend(self.place, pool_size=2, schema=self.schema), auto_prune=False)


def starter(orders: Connection, barrier: Barrier, number: int) -> None:
    """Until told to stop: open what is ordered at the same time as the others, and use it."""
    while (order := orders.recv()) is not None:
        try:
            orders.send(start(order, barrier, number))
        except Exception:  # noqa: BLE001 - the parent process shows it
            orders.send(traceback.format_exc())


def start(order: Round, barrier: Barrier, number: int) -> list[str]:
    """The migrations that this process applied, where it is one of those that ask."""
    barrier.wait(PATIENCE)
    with order.open() as storage:
        applied = storage.migrate() if number % 2 else []
        storage.queue.schedule("x", f"from {number}", idempotency_key=f"key {number}")
        storage.metrics.increment("starts")
        storage.lock.acquire(f"owner {number}")
        assert storage.queue.get(1) is not None
    return applied


class Crew:
    """Processes that live through all rounds: to start one takes longer than a round."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED_ONCE)
        self._barrier = context.Barrier(PROCESSES)
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=starter, args=(theirs, self._barrier, number), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, order: Round) -> list[list[str] | str]:
        for pipe in self._pipes:
            pipe.send(order)
        return [pipe.recv() if pipe.poll(PATIENCE) else "no answer" for pipe in self._pipes]

    def stop(self) -> None:
        self._barrier.abort()
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(PATIENCE)
        for pipe in self._pipes:
            pipe.close()


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.stop()


def check_rounds(crew: Crew, orders: list[Round]) -> None:
    for order in orders:
        answers = crew.run(order)
        failures = [answer for answer in answers if isinstance(answer, str)]
        if failures:
            pytest.fail("\n".join(failures), pytrace=False)
        applied = [name for answer in answers for name in answer]
        assert len(applied) == len(set(applied))
        with order.open() as storage:
            assert storage.migrate() == []
            assert {job.content for job in storage.queue.list()} == {f"from {n}" for n in range(PROCESSES)}
            assert storage.metrics.read().counters == {"starts": PROCESSES}
            assert storage.lock.current() is not None


def test_sqlite(crew: Crew, tmp_path: Path) -> None:
    check_rounds(crew, [Round(str(tmp_path / f"{number}" / "assistly.db")) for number in range(ROUNDS)])


def test_postgres(crew: Crew, database_url: str, new_schema: Callable[[], str]) -> None:
    check_rounds(crew, [Round(database_url, new_schema()) for _ in range(ROUNDS)])


def test_postgres_where_the_schema_is_missing_too(crew: Crew, database_url: str) -> None:
    order = Round(database_url, "assistly_start_missing")
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS assistly_start_missing CASCADE")
    try:
        check_rounds(crew, [order])
    finally:
        with psycopg.connect(database_url) as connection:
            connection.execute("DROP SCHEMA assistly_start_missing CASCADE")
