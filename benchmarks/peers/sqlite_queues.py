"""litequeue and persist-queue: queues in one SQLite file, without a schedule and without leases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from ..model import Contender, Environment, Measure, Numbers, throughput, times
from ..workload import content, until_empty


@contextmanager
def _litequeue(environment: Environment) -> Iterator[Any]:
    from litequeue import LiteQueue

    queue = LiteQueue(environment.new_path())
    with closing(queue.conn):
        yield queue


@contextmanager
def _persistqueue(environment: Environment) -> Iterator[Any]:
    from persistqueue import SQLiteAckQueue

    with closing(SQLiteAckQueue(str(environment.new_path()))) as queue:
        yield queue


def _lite_step(queue: Any) -> Callable[[], int]:
    def step() -> int:
        message = queue.pop()
        if message is None:
            return 0
        queue.done(message.message_id)
        return 1

    return step


def _persist_step(queue: Any) -> Callable[[], int]:
    from persistqueue import Empty

    def step() -> int:
        try:
            item = queue.get(block=False)
        except Empty:
            return 0
        queue.ack(item)
        return 1

    return step


def _enqueue(opened: Callable[[Environment], Any]) -> Callable[[Environment], Any]:
    @contextmanager
    def enqueues(environment: Environment) -> Iterator[Measure]:
        with opened(environment) as queue:
            yield throughput(times(lambda number: queue.put(content(number))), Numbers())

    return enqueues


def _drain(
    opened: Callable[[Environment], Any], step: Callable[[Any], Callable[[], int]]
) -> Callable[[Environment], Any]:
    @contextmanager
    def drains(environment: Environment) -> Iterator[Measure]:
        with opened(environment) as queue:

            def fill(count: int) -> None:
                for number in range(count):
                    queue.put(content(number))

            yield throughput(until_empty(step(queue)), fill)

    return drains


def _lite(opened: Callable[[Environment], Any], *, fraction: float = 1.0) -> Contender:
    settings = "pop and done; synchronous = NORMAL"
    return Contender("litequeue", opened, settings, role="peer", requires=("litequeue",), fraction=fraction)


def _persist(opened: Callable[[Environment], Any], *, fraction: float = 1.0) -> Contender:
    settings = "SQLiteAckQueue; synchronous = FULL, which it does not let one choose"
    return Contender(
        "persist-queue", opened, settings, role="peer", requires=("persist-queue",), fraction=fraction
    )


PEERS = {
    "sqlite-enqueue": (_lite(_enqueue(_litequeue)), _persist(_enqueue(_persistqueue))),
    "sqlite-drain": (
        _lite(_drain(_litequeue, _lite_step), fraction=0.05),
        _persist(_drain(_persistqueue, _persist_step), fraction=0.05),
    ),
}
