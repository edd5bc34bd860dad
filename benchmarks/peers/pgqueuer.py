"""pgqueuer: its worker takes batches, and writes the ends of jobs in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..model import Contender, Environment, Measure, Numbers, throughput
from ..pickup import Arrivals, picked_up
from ..workload import BATCH, content
from .background import in_background

_ENTRYPOINT = "publish"


@contextmanager
def _queries(url: str) -> Iterator[tuple[asyncio.Runner, Any]]:
    import asyncpg
    from pgqueuer import Queries

    with asyncio.Runner() as runner:

        async def connect() -> Any:
            return await asyncpg.connect(url)

        connection = runner.run(connect())

        async def make() -> Any:
            return Queries.from_asyncpg_connection(connection)

        try:
            yield runner, runner.run(make())
        finally:
            runner.run(connection.close())


@contextmanager
def _installed(environment: Environment) -> Iterator[tuple[str, asyncio.Runner, Any]]:
    with environment.new_database() as url, _queries(url) as (runner, queries):
        runner.run(queries.install())
        yield url, runner, queries


@contextmanager
def _enqueue(environment: Environment) -> Iterator[Measure]:
    with _installed(environment) as (_, runner, queries):

        async def enqueue(numbers: range) -> int:
            for number in numbers:
                await queries.enqueue(_ENTRYPOINT, content(number).encode())
            return len(numbers)

        yield throughput(lambda numbers: runner.run(enqueue(numbers)), Numbers())


async def _enqueue_many(queries: Any, payloads: list[bytes]) -> int:
    count = len(payloads)
    return len(await queries.enqueue([_ENTRYPOINT] * count, payloads, [0] * count))


def _payloads(count: int) -> list[bytes]:
    return [content(number).encode() for number in range(count)]


@contextmanager
def _bulk(environment: Environment) -> Iterator[Measure]:
    with _installed(environment) as (_, runner, queries):

        def prepare(count: int) -> list[bytes]:
            runner.run(queries.clear_queue())
            return _payloads(count)

        yield throughput(lambda payloads: runner.run(_enqueue_many(queries, payloads)), prepare)


@contextmanager
def _drain(environment: Environment) -> Iterator[Measure]:
    from pgqueuer import QueueManager
    from pgqueuer.types import QueueExecutionMode

    with _installed(environment) as (_, runner, queries):

        async def drain() -> int:
            manager = QueueManager(queries)
            done = 0

            @manager.entrypoint(_ENTRYPOINT)
            async def publish(_: Any) -> None:
                nonlocal done
                done += 1

            await manager.run(batch_size=BATCH, mode=QueueExecutionMode.drain)
            return done

        yield throughput(
            lambda _: runner.run(drain()),
            lambda count: runner.run(_enqueue_many(queries, _payloads(count))),
        )


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _queries(url) as (runner, queries):
        yield lambda: runner.run(queries.enqueue(_ENTRYPOINT, b"content"))


@contextmanager
def _pick_up(environment: Environment) -> Iterator[Measure]:
    import asyncpg
    from pgqueuer import Queries, QueueManager

    arrivals = Arrivals()

    with _installed(environment) as (url, _, _):

        async def work() -> None:
            manager = QueueManager(Queries.from_asyncpg_connection(await asyncpg.connect(url)))

            @manager.entrypoint(_ENTRYPOINT)
            async def publish(_: Any) -> None:
                arrivals.note()

            await manager.run()

        with in_background(work), picked_up(arrivals.receive, _enqueuer, (url,)) as measure:
            yield measure


def _contender(opened: Callable[[Environment], Any], settings: str = "") -> Contender:
    return Contender("pgqueuer", opened, settings, role="peer", requires=("pgqueuer", "asyncpg"))


_WORKER = f"asyncpg, its worker, batch_size={BATCH}, as many jobs at once as it likes"

PEERS = {
    "pg-enqueue": _contender(_enqueue, "asyncpg"),
    "pg-bulk-10k": _contender(_bulk, "asyncpg"),
    "pg-bulk-100k": _contender(_bulk, "asyncpg"),
    "pg-drain": _contender(_drain, _WORKER),
    **dict.fromkeys(("pg-worker-16", "pg-worker-64"), _contender(_drain, _WORKER)),
    "pg-pickup": _contender(_pick_up, "asyncpg, its worker, LISTEN"),
}
