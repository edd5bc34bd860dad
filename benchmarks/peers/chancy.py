"""chancy: its worker on one event loop, which writes the ends of jobs in batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from ..model import Contender, Environment, Measure, Numbers, throughput, times
from ..pickup import Arrivals, picked_up
from ..workload import content
from .background import in_background

_QUEUE = "bench"
_CHUNK = 10_000
_CONCURRENCY = 10_000
_LONG = 60.0
_LOOK = 0.02
_arrivals = Arrivals()


async def publish(text: str) -> None:
    pass


async def arrive(text: str) -> None:  # noqa: ARG001 - the name of its argument
    _arrivals.note()


@contextmanager
def _app(url: str) -> Iterator[Any]:
    from chancy import Chancy

    with Chancy(url, log=_quiet()) as app:
        yield app


def _quiet() -> logging.Logger:
    logger = logging.getLogger("chancy")
    logger.setLevel(logging.ERROR)
    return logger


@contextmanager
def _database(environment: Environment) -> Iterator[str]:
    from chancy import Chancy, Queue

    async def migrate(url: str) -> None:
        async with Chancy(url, log=_quiet()) as app:
            await app.migrate()
            await app.declare(
                Queue(_QUEUE, concurrency=_CONCURRENCY, polling_interval=1, executor=Chancy.Executor.Async)
            )

    with environment.new_database() as url:
        asyncio.run(migrate(url))
        yield url


def _job(function: Callable[..., Any], text: str) -> Any:
    from chancy import Job

    return Job.from_func(function, queue=_QUEUE, kwargs={"text": text})


@contextmanager
def _enqueue(environment: Environment) -> Iterator[Measure]:
    with _database(environment) as url, _app(url) as app:
        yield throughput(times(lambda number: app.sync_push(_job(publish, content(number)))), Numbers())


def _push_all(app: Any, jobs: list[Any]) -> int:
    return sum(len(references) for references in app.sync_push_many(jobs, batch_size=_CHUNK))


@contextmanager
def _bulk(environment: Environment) -> Iterator[Measure]:
    with _database(environment) as url, _app(url) as app:

        def prepare(size: int) -> list[Any]:
            return [_job(publish, content(number)) for number in range(size)]

        yield throughput(lambda jobs: _push_all(app, jobs), prepare)


@contextmanager
def _working(url: str) -> Iterator[None]:
    from chancy import Chancy, Worker

    async def work() -> None:
        async with Chancy(url, log=_quiet()) as app, Worker(app, register_signal_handlers=False) as worker:
            await worker.wait_for_shutdown()

    with in_background(work):
        yield


@contextmanager
def _drain(environment: Environment) -> Iterator[Measure]:
    """From the start of a worker to the end of the last job in the table."""
    with _database(environment) as url, _app(url) as app, psycopg.connect(url, autocommit=True) as connection:

        def fill(size: int) -> int:
            connection.execute("TRUNCATE chancy_jobs")
            return _push_all(app, [_job(publish, content(number)) for number in range(size)])

        def drain(size: int) -> int:
            deadline = time.monotonic() + _LONG
            with _working(url):
                while (done := _succeeded(connection)) < size and time.monotonic() < deadline:
                    time.sleep(_LOOK)
            return done

        yield throughput(drain, fill)


def _succeeded(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT count(*) FROM chancy_jobs WHERE state = 'succeeded'").fetchone()
    return row[0] if row else 0


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _app(url) as app:
        yield lambda: app.sync_push(_job(arrive, "content"))


@contextmanager
def _pick_up(environment: Environment) -> Iterator[Measure]:
    with (
        _database(environment) as url,
        _working(url),
        picked_up(_arrivals.receive, _enqueuer, (url,)) as measure,
    ):
        yield measure


def _contender(
    opened: Callable[[Environment], Any], settings: str = "", *, fraction: float = 1.0
) -> Contender:
    return Contender("chancy", opened, settings, role="peer", requires=("chancy",), fraction=fraction)


_WORKER = f"its worker, AsyncExecutor, concurrency={_CONCURRENCY}, polling_interval=1"

PEERS = {
    "pg-enqueue": _contender(_enqueue, "sync_push", fraction=0.1),
    "pg-bulk-10k": _contender(_bulk, f"sync_push_many, batch_size={_CHUNK}"),
    "pg-bulk-100k": _contender(_bulk, f"sync_push_many, batch_size={_CHUNK}", fraction=0.2),
    "pg-drain": _contender(_drain, _WORKER),
    "pg-pickup": _contender(_pick_up, "its worker, LISTEN"),
}
