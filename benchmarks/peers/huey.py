"""huey takes a task off its table when it claims it, and keeps no status; results are switched off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from ..model import Contender, Numbers, Round, Surroundings, throughput, times
from ..pickup import PATIENCE, picked_up
from ..workload import content, nonce, until_empty

_REQUIRES = ("huey",)
_FORGETS = "results=False; a task is deleted at its claim"


def _publish(_: str) -> None:
    pass


@contextmanager
def _on_postgres(url: str, *, blocking: bool = False) -> Iterator[Any]:
    from huey import PostgresHuey

    queue = PostgresHuey(dsn=url, results=False, blocking=blocking, read_timeout=PATIENCE)
    with closing(queue.storage):
        yield queue


@contextmanager
def _on_sqlite(at: Surroundings) -> Iterator[Any]:
    from huey import SqliteHuey

    queue = SqliteHuey(filename=str(at.new_path()), results=False, fsync=False)
    with closing(queue.storage):
        yield queue


def _enqueues(queue: Any) -> Round:
    publish = queue.task(name="publish")(_publish)
    return throughput(times(lambda number: publish(content(number))), Numbers())


def _drains(queue: Any) -> Round:
    publish = queue.task(name="publish")(_publish)

    def fill(count: int) -> None:
        for number in range(count):
            publish(content(number))

    def step() -> int:
        task = queue.dequeue()
        if task is None:
            return 0
        queue.execute(task)
        return 1

    return throughput(until_empty(step), fill)


def _puts(queue: Any) -> Round:
    return throughput(times(lambda number: queue.storage.put_if_empty(nonce(number), b"")), Numbers())


def _postgres(measured: Callable[[Any], Round]) -> Callable[[Surroundings], Any]:
    @contextmanager
    def opened(at: Surroundings) -> Iterator[Round]:
        with at.new_database() as url, _on_postgres(url) as queue:
            yield measured(queue)

    return opened


def _sqlite(measured: Callable[[Any], Round]) -> Callable[[Surroundings], Any]:
    @contextmanager
    def opened(at: Surroundings) -> Iterator[Round]:
        with _on_sqlite(at) as queue:
            yield measured(queue)

    return opened


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _on_postgres(url) as queue:
        publish = queue.task(name="publish")(_publish)
        yield lambda: publish("content")


@contextmanager
def _pick_up(at: Surroundings) -> Iterator[Round]:
    with at.new_database() as url, _on_postgres(url, blocking=True) as queue:
        queue.task(name="publish")(_publish)

        def receive() -> float:
            task = queue.dequeue()
            received = time.monotonic()
            queue.execute(task)
            return received

        with picked_up(receive, _enqueuer, (url,)) as measure:
            yield measure


def _contender(opened: Callable[[Surroundings], Any], settings: str = "") -> Contender:
    return Contender("huey", opened, settings, role="peer", requires=_REQUIRES)


PEERS = {
    "pg-enqueue": _contender(_postgres(_enqueues), _FORGETS),
    "pg-drain": _contender(_postgres(_drains), _FORGETS),
    "pg-drain-one": _contender(_postgres(_drains), _FORGETS),
    "pg-pickup": _contender(_pick_up, "LISTEN"),
    "pg-nonce": _contender(_postgres(_puts), "put_if_empty, without expiry"),
    "sqlite-nonce": _contender(_sqlite(_puts), "put_if_empty, without expiry; synchronous = OFF"),
    "sqlite-enqueue": _contender(_sqlite(_enqueues), "results=False, synchronous = OFF"),
    "sqlite-drain": _contender(_sqlite(_drains), f"{_FORGETS}; synchronous = OFF"),
}
