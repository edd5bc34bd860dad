"""DBOS: each job is a durable workflow, which costs it more statements than a job of a queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..model import Contender, Numbers, Round, Surroundings, throughput, times
from ..pickup import picked_up
from ..workload import BATCH, content
from .background import Arrivals, Countdown

_QUEUE = "bench"
_POLL = 0.02


def _ignore() -> None:
    pass


@contextmanager
def _launched(
    url: str, note: Callable[[], None] = _ignore, *, works: bool = False
) -> Iterator[Callable[[str], object]]:
    """Yields what enqueues a job."""
    from dbos import DBOS

    config: Any = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "bench",
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)

    @DBOS.workflow(name="publish")
    def publish(_: str) -> None:
        note()

    DBOS.listen_queues([_QUEUE if works else "none"])
    DBOS.launch()
    try:
        DBOS.register_queue(_QUEUE, worker_concurrency=BATCH, polling_interval_sec=_POLL)
        yield lambda text: DBOS.enqueue_workflow(_QUEUE, publish, text)
    finally:
        DBOS.destroy(destroy_registry=True)


@contextmanager
def _enqueue(at: Surroundings) -> Iterator[Round]:
    with at.new_database() as url, _launched(url) as enqueue:
        yield throughput(times(lambda number: enqueue(content(number))), Numbers())


@contextmanager
def _drain(at: Surroundings) -> Iterator[Round]:
    """A worker that starts when the jobs are there, from the first of them to the last."""
    with at.new_database() as url:

        def measure(given: int) -> tuple[float]:
            count = max(given, 2)
            with _launched(url) as enqueue:
                for number in range(count):
                    enqueue(content(number))
            countdown = Countdown(count)
            with _launched(url, countdown.note, works=True):
                return (countdown.rate(),)

        yield measure


@contextmanager
def _enqueuer(url: str) -> Iterator[Callable[[], object]]:
    with _launched(url) as enqueue:
        yield lambda: enqueue("content")


@contextmanager
def _pick_up(at: Surroundings) -> Iterator[Round]:
    arrivals = Arrivals()
    with (
        at.new_database() as url,
        _launched(url, arrivals.note, works=True),
        picked_up(arrivals.receive, _enqueuer, (url,)) as measure,
    ):
        yield measure


def _contender(opened: Callable[[Surroundings], Any], settings: str, *, share: float = 1.0) -> Contender:
    return Contender("dbos", opened, settings, role="peer", requires=("dbos",), share=share)


_SETTINGS = f"worker_concurrency={BATCH}, polling_interval_sec={_POLL}"

PEERS = {
    "pg-enqueue": _contender(_enqueue, "enqueue_workflow", share=0.5),
    "pg-drain": _contender(_drain, _SETTINGS, share=0.02),
    "pg-pickup": _contender(_pick_up, _SETTINGS),
}
