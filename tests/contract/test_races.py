"""Races for one thing: exactly one racer wins, the others hear of it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pytest

from assistly.storage import (
    ClaimLost,
    ClaimState,
    Job,
    MemoryBackend,
    NewJob,
    Storage,
    StorageBackend,
    StorageError,
    WorkerLock,
)
from assistly.storage.testing import empty
from contract.racing import event_moves, queue_moves, record_moves
from contract.racing.crews import Crew, Pool, Processes, Threads
from contract.racing.racer import START, Place

T = TypeVar("T")
E = TypeVar("E", bound=StorageError)

THREADS = 8
PROCESSES = 4

TICK = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
LEASE = 5 * MINUTE


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(PROCESSES)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def sqlite_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(str(tmp_path_factory.mktemp("races") / "races.db"))


@pytest.fixture(scope="module")
def postgres_place(database_url: str, new_schema: Callable[[], str]) -> Place:
    return Place(database_url, new_schema())


@pytest.fixture(
    scope="module",
    params=["memory-threads", "sqlite-threads", "sqlite-processes", "postgres-threads", "postgres-processes"],
)
def shared_crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    engine, kind = request.param.split("-")
    if kind == "processes":
        crew: Crew = Processes(
            request.getfixturevalue("pool"), request.getfixturevalue(f"{engine}_place")
        )
    elif engine == "memory":
        crew = Threads(MemoryBackend(), THREADS)
    else:
        place: Place = request.getfixturevalue(f"{engine}_place")
        crew = Threads(place.open(connections=THREADS), THREADS)
    with crew.storage:
        yield crew


@pytest.fixture
def crew(shared_crew: Crew) -> Crew:
    empty(shared_crew.backend)
    return shared_crew
