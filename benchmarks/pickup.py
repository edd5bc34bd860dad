"""How soon an idle worker has a job: from before `schedule` in one process to the claim in another."""

from __future__ import annotations

import multiprocessing
import queue
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from .model import Measure

TIMEOUT = 10.0
Enqueuer = Callable[..., AbstractContextManager[Callable[[], object]]]


class Arrivals:
    """When jobs were handed to a worker that runs on a thread of its own."""

    def __init__(self) -> None:
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()

    def note(self) -> None:
        self._times.put(time.monotonic())

    def receive(self) -> float:
        return self._times.get(timeout=TIMEOUT)


@contextmanager
def picked_up(
    receive: Callable[[], float], open_enqueuer: Enqueuer, arguments: tuple[Any, ...]
) -> Iterator[Measure]:
    """Median and 99th percentile in milliseconds.

    `receive` waits for a job and returns when it had it, by the monotonic clock, which the
    processes share. The enqueuer works in a process of its own, after a random pause.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_enqueue_on_demand, args=(theirs, open_enqueuer, arguments), daemon=True)
    process.start()
    theirs.close()

    def delay() -> float:
        ours.send(random.uniform(0.02, 0.06))
        received = receive()
        began: float = ours.recv()
        return (received - began) * 1e3

    def measure(count: int) -> tuple[float, float]:
        delays = sorted(delay() for _ in range(count))
        return statistics.median(delays), delays[min(count - 1, count * 99 // 100)]

    try:
        yield measure
    finally:
        ours.send(None)
        process.join(TIMEOUT)
        ours.close()


def _enqueue_on_demand(requests: Connection, open_enqueuer: Enqueuer, arguments: tuple[Any, ...]) -> None:
    with open_enqueuer(*arguments) as enqueue:
        while (pause := requests.recv()) is not None:
            time.sleep(pause)
            began = time.monotonic()
            enqueue()
            requests.send(began)


@contextmanager
def in_thread(run: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(TIMEOUT)
