"""huey takes a task off its table when it claims it, and keeps no status; results are switched off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from ..model import Contender, Environment, Measure, Numbers, throughput, times
from ..pickup import TIMEOUT, picked_up
from ..workload import content, nonce, until_empty
from .background import Countdown

_REQUIRES = ("huey",)
_POLL = 0.01
_FORGETS = "results=False; a task is deleted at its claim"


def _publish(_: str) -> None:
    pass


@contextmanager
def _on_postgres(url: str, *, blocking: bool = False) -> Iterator[Any]:
    from huey import PostgresHuey

    queue = PostgresHuey(dsn=url, results=False, blocking=blocking, read_timeout=TIMEOUT)
    with closing(queue.storage):
        yield queue


@contextmanager
def _on_sqlite(environment: Environment) -> Iterator[Any]:
    from huey import SqliteHuey

    queue = SqliteHuey(filename=str(environment.new_path()), results=False, fsync=False)
    with closing(queue.storage):
        yield queue


def _enqueues(queue: Any) -> Measure:
    publish = queue.task(name="publish")(_publish)
    return throughput(times(lambda number: publish(content(number))), Numbers())


def _drains(queue: Any) -> Measure:
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


def _works(queue: Any, threads: int) -> Measure:
    """Its consumer, from its start to the end of the last task."""

    countdown = Countdown(0)
    publish = queue.task(name="publish")(lambda _: countdown.note())

    def measure(count: int) -> tuple[float]:
        nonlocal countdown
        countdown = Countdown(count)
        for number in range(count):
            publish(content(number))
        consumer = queue.create_consumer(workers=threads, periodic=False, initial_delay=_POLL)
        began = time.perf_counter()
        consumer.start()
        try:
            countdown.wait()
            return (count / (time.perf_counter() - began),)
        finally:
            consumer.stop(graceful=True)

    return measure


def _puts(queue: Any) -> Measure:
    return throughput(times(lambda number: queue.storage.put_if_empty(nonce(number), b"")), Numbers())


def _postgres(measured: Callable[[Any], Measure]) -> Callable[[Environment], Any]:
    @contextmanager
    def opened(environment: Environment) -> Iterator[Measure]:
        with environment.new_database() as url, _on_postgres(url) as queue:
            yield measured(queue)

    return opened


def _sqlite(measured: Callable[[Any], Measure]) -> Callable[[Environment], Any]:
    @contextmanager
    def opened(environment: Environment) -> Iterator[Measure]:
        with _on_sqlite(environment) as queue:
            yield measured(queue)

    return opened


@contextmanager
def _in_memory(_: Environment, measured: Callable[[Any], Measure]) -> Iterator[Measure]:
    from huey import MemoryHuey

    yield measured(MemoryHuey(results=False))


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _on_postgres(url) as queue:
        publish = queue.task(name="publish")(_publish)
        yield lambda: publish("content")


@contextmanager
def _pick_up(environment: Environment) -> Iterator[Measure]:
    with environment.new_database() as url, _on_postgres(url, blocking=True) as queue:
        queue.task(name="publish")(_publish)

        def receive() -> float:
            task = queue.dequeue()
            received = time.monotonic()
            queue.execute(task)
            return received

        with picked_up(receive, _enqueuer, (url,)) as measure:
            yield measure


def _contender(opened: Callable[[Environment], Any], settings: str = "") -> Contender:
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
    "memory-schedule": _contender(partial(_in_memory, measured=_enqueues), "results=False"),
    "memory-drain": _contender(partial(_in_memory, measured=_drains), _FORGETS),
    **{
        f"pg-worker-{threads}": _contender(
            _postgres(partial(_works, threads=threads)), f"its consumer, {threads} threads; {_FORGETS}"
        )
        for threads in (16, 64)
    },
    **{
        f"sqlite-worker-{threads}": _contender(
            _sqlite(partial(_works, threads=threads)),
            f"its consumer, {threads} threads; {_FORGETS}; synchronous = OFF",
        )
        for threads in (16, 64)
    },
}
