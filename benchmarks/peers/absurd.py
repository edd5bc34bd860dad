"""absurd: functions in the database. Its schema is no part of its package: ABSURD_SQL names the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from ..model import Contender, Numbers, Round, Surroundings, throughput, times
from ..pickup import picked_up
from ..workload import BATCH, WORKER, content, until_empty
from .background import Arrivals

_QUEUE = "bench"
_POLL = 0.02


@contextmanager
def _database(at: Surroundings) -> Iterator[str]:
    file = os.environ.get("ABSURD_SQL")
    if not file:
        raise RuntimeError("ABSURD_SQL does not name the file absurd.sql of its repository")
    with at.new_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(Path(file).read_bytes())
        with _client(url) as client:
            client.create_queue(_QUEUE)
        yield url


@contextmanager
def _client(url: str) -> Iterator[Any]:
    from absurd_sdk import Absurd

    with psycopg.connect(url, autocommit=True) as connection:
        yield Absurd(connection, queue_name=_QUEUE)


def _register(client: Any, note: Callable[[], None]) -> None:
    @client.register_task("publish")
    def publish(_params: Any, _context: Any) -> None:
        note()


def _spawn(client: Any, number: int) -> object:
    return client.spawn("publish", {"text": content(number)})


@contextmanager
def _enqueue(at: Surroundings) -> Iterator[Round]:
    with _database(at) as url, _client(url) as client:
        _register(client, lambda: None)
        yield throughput(times(lambda number: _spawn(client, number)), Numbers())


@contextmanager
def _drain(at: Surroundings) -> Iterator[Round]:
    with _database(at) as url, _client(url) as client:
        done = 0

        def note() -> None:
            nonlocal done
            done += 1

        _register(client, note)

        def step() -> int:
            before = done
            client.work_batch(worker_id=WORKER, batch_size=BATCH)
            return done - before

        def fill(count: int) -> None:
            for number in range(count):
                _spawn(client, number)

        yield throughput(until_empty(step), fill)


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _client(url) as client:
        _register(client, lambda: None)
        yield lambda: _spawn(client, 0)


@contextmanager
def _pick_up(at: Surroundings) -> Iterator[Round]:
    arrivals = Arrivals()
    with _database(at) as url, _client(url) as client:
        _register(client, arrivals.note)
        worker = threading.Thread(target=client.start_worker, kwargs={"poll_interval": _POLL}, daemon=True)
        worker.start()
        try:
            with picked_up(arrivals.receive, _enqueuer, (url,)) as measure:
                yield measure
        finally:
            client.stop_worker()
            worker.join()


def _contender(opened: Callable[[Surroundings], Any], settings: str, *, share: float = 1.0) -> Contender:
    return Contender("absurd", opened, settings, role="peer", requires=("absurd-sdk",), share=share)


PEERS = {
    "pg-enqueue": _contender(_enqueue, "spawn"),
    "pg-drain": _contender(_drain, f"work_batch, batch_size={BATCH}", share=0.1),
    "pg-pickup": _contender(_pick_up, f"its worker, poll_interval={_POLL}"),
}
