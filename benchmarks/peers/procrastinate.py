"""procrastinate: each job is claimed and finished alone, by functions in the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..model import Contender, Numbers, Round, Surroundings, throughput, times
from ..pickup import picked_up
from ..workload import content
from .background import Arrivals, in_background

_CONCURRENCY = 10


@contextmanager
def _database(at: Surroundings) -> Iterator[str]:
    with at.new_database() as url, _app(url) as (app, _):
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
def _enqueue(at: Surroundings) -> Iterator[Round]:
    with _database(at) as url, _app(url) as (_, publish):
        yield throughput(times(lambda number: publish.defer(text=content(number))), Numbers())


@contextmanager
def _bulk(at: Surroundings) -> Iterator[Round]:
    with _database(at) as url, _app(url) as (_, publish):

        def prepare(count: int) -> list[dict[str, str]]:
            return [{"text": content(number)} for number in range(count)]

        yield throughput(lambda jobs: len(publish.batch_defer(*jobs)), prepare)


@contextmanager
def _drain(at: Surroundings) -> Iterator[Round]:
    import procrastinate

    with _database(at) as url, _app(url) as (_, publish), asyncio.Runner() as runner:
        worker = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=url, max_size=at.pool_size)
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
                concurrency=_CONCURRENCY,
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
def _pick_up(at: Surroundings) -> Iterator[Round]:
    import procrastinate

    arrivals = Arrivals()

    async def arrived(text: str) -> None:  # noqa: ARG001 - the job's payload
        arrivals.note()

    with _database(at) as url:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
        app.task(name="publish")(arrived)

        async def work() -> None:
            async with app.open_async():
                await app.run_worker_async(install_signal_handlers=False)

        with in_background(work), picked_up(arrivals.receive, _enqueuer, (url,)) as measure:
            yield measure


def _contender(opened: Callable[[Surroundings], Any], settings: str = "", *, share: float = 1.0) -> Contender:
    return Contender("procrastinate", opened, settings, role="peer", requires=("procrastinate",), share=share)


PEERS = {
    "pg-enqueue": _contender(_enqueue, "defer, sync pool"),
    "pg-bulk-10k": _contender(_bulk, "batch_defer"),
    "pg-bulk-100k": _contender(_bulk, "batch_defer, of 10,000", share=0.1),
    "pg-drain": _contender(_drain, f"its worker, concurrency={_CONCURRENCY}", share=0.05),
    "pg-pickup": _contender(_pick_up, "its worker, LISTEN"),
}
