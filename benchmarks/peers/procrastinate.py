"""procrastinate: each job is claimed and finished alone, by functions in the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..model import Contender, Environment, Measure, Numbers, throughput, times
from ..pickup import Arrivals, picked_up
from ..workload import content
from .background import in_background

_CONCURRENCY = 10
_WORKERS = {"pg-worker-16": 16, "pg-worker-64": 64}


@contextmanager
def _database(environment: Environment) -> Iterator[str]:
    with environment.new_database() as url, _app(url) as (app, _):
        app.schema_manager.apply_schema()
        yield url


@contextmanager
def _app(url: str) -> Iterator[tuple[Any, Any]]:
    """With its one task."""
    import procrastinate

    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=url))
    with app.open():
        yield app, app.task(name="publish")(_nothing)


async def _nothing(text: str) -> None:
    pass


@contextmanager
def _enqueue(environment: Environment) -> Iterator[Measure]:
    with _database(environment) as url, _app(url) as (_, publish):
        yield throughput(times(lambda number: publish.defer(text=content(number))), Numbers())


@contextmanager
def _bulk(environment: Environment) -> Iterator[Measure]:
    with _database(environment) as url, _app(url) as (_, publish):

        def prepare(count: int) -> list[dict[str, str]]:
            return [{"text": content(number)} for number in range(count)]

        yield throughput(lambda jobs: len(publish.batch_defer(*jobs)), prepare)


@contextmanager
def _drain(environment: Environment, concurrency: int = _CONCURRENCY) -> Iterator[Measure]:
    import procrastinate

    with _database(environment) as url, _app(url) as (_, publish), asyncio.Runner() as runner:
        worker = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=url, max_size=environment.pool_size)
        )
        worker.task(name="publish")(_nothing)

        async def opened() -> None:
            await worker.open_async()

        runner.run(opened())

        def fill(count: int) -> int:
            return len(publish.batch_defer(*({"text": content(number)} for number in range(count))))

        async def drain() -> None:
            await worker.run_worker_async(
                wait=False,
                concurrency=concurrency,
                listen_notify=False,
                install_signal_handlers=False,
            )

        def run(count: int) -> int:
            runner.run(drain())
            return count

        try:
            yield throughput(run, fill)
        finally:
            runner.run(worker.close_async())


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _app(url) as (_, publish):
        yield lambda: publish.defer(text="content")


@contextmanager
def _pick_up(environment: Environment) -> Iterator[Measure]:
    import procrastinate

    arrivals = Arrivals()

    async def arrived(text: str) -> None:  # noqa: ARG001 - the job's payload
        arrivals.note()

    with _database(environment) as url:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
        app.task(name="publish")(arrived)

        async def work() -> None:
            async with app.open_async():
                await app.run_worker_async(install_signal_handlers=False)

        with in_background(work), picked_up(arrivals.receive, _enqueuer, (url,)) as measure:
            yield measure


def _contender(
    opened: Callable[[Environment], Any], settings: str = "", *, fraction: float = 1.0
) -> Contender:
    return Contender(
        "procrastinate", opened, settings, role="peer", requires=("procrastinate",), fraction=fraction
    )


PEERS = {
    "pg-enqueue": _contender(_enqueue, "defer, sync pool", fraction=0.1),
    "pg-bulk-10k": _contender(_bulk, "batch_defer"),
    "pg-bulk-100k": _contender(_bulk, "batch_defer, of 10,000", fraction=0.1),
    "pg-drain": _contender(_drain, f"its worker, concurrency={_CONCURRENCY}", fraction=0.05),
    **{
        key: _contender(
            partial(_drain, concurrency=concurrency), f"its worker, concurrency={concurrency}", fraction=0.1
        )
        for key, concurrency in _WORKERS.items()
    },
    "pg-pickup": _contender(_pick_up, "its worker, LISTEN"),
}
