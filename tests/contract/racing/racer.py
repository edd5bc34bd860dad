"""One racer: what it is given, and how it answers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from threading import BrokenBarrierError
from typing import Any, Protocol, TypeVar

from assistly.storage import PostgresBackend, SqliteBackend, Storage, StorageBackend, StorageError

T = TypeVar("T")
E = TypeVar("E", bound=StorageError)
Item = TypeVar("Item")

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
PATIENCE = 30.0
"""Seconds until a racer that does not come, or does not answer, is given up."""


def standing_clock() -> datetime:
    return START


@dataclass(frozen=True)
class Place:
    """A database that several processes can open: a URL and a schema, or the path of a file."""

    address: str
    schema: str | None = None

    def open(self, *, connections: int) -> StorageBackend:
        if self.schema is None:
            return SqliteBackend(self.address)
        return PostgresBackend(self.address, pool_size=connections, schema=self.schema)


def storage_on(backend: StorageBackend) -> Storage:
    return Storage(backend, clock=standing_clock, auto_prune=False)


@dataclass(frozen=True)
class Racer:
    storage: Storage
    number: int
    size: int
    meet: Callable[[], object]
    """Returns when all racers have called it."""

    @property
    def name(self) -> str:
        return f"racer-{self.number}"

    def rounds(self, items: Iterable[Item], turn: Callable[[Item], T]) -> list[T]:
        """A turn for each item, which all racers begin together."""
        answers: list[T] = []
        for item in items:
            self.meet()
            answers.append(turn(item))
        return answers


def caught(kind: type[E], call: Callable[[], T]) -> T | E:
    """What the call returns, or this error of it."""
    try:
        return call()
    except kind as error:
        return error


@dataclass(frozen=True)
class Failure:
    """`left` is True for one that only waited in vain for another, which failed."""

    number: int
    report: str
    left: bool = False


class Barrier(Protocol):
    """What the barriers of threads and of processes have in common."""

    def wait(self, timeout: float | None = None) -> int: ...

    def abort(self) -> None: ...


def run(
    storage: Storage, number: int, size: int, barrier: Barrier, move: Callable[..., Any], *args: Any
) -> Any:
    """The answer of the move, or a Failure. One that fails lets the others go."""
    racer = Racer(storage, number, size, lambda: barrier.wait(PATIENCE))
    try:
        racer.meet()
        return move(racer, *args)
    except BrokenBarrierError:
        return Failure(number, f"racer {number} waited for the others in vain", left=True)
    except Exception:  # noqa: BLE001 - the test shows it
        barrier.abort()
        return Failure(number, f"racer {number}:\n{traceback.format_exc()}")


def serve(orders: Connection, barrier: Barrier, number: int, size: int) -> None:
    """Run what is ordered until there is no more; a storage stays open for the next race."""
    storages: dict[Place, Storage] = {}
    with ExitStack() as stack:
        while (order := orders.recv()) is not None:
            place, move, args = order
            if place not in storages:
                storages[place] = stack.enter_context(storage_on(place.open(connections=2)))
            orders.send(run(storages[place], number, size, barrier, move, *args))
