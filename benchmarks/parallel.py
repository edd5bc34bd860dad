"""Worker processes that drain one table together."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from .model import Measure
from .workload import until_empty

_TIMEOUT = 60.0
OpenWorker = Callable[..., AbstractContextManager[Callable[[], int]]]


@contextmanager
def parallel_workers(
    size: int, open_worker: OpenWorker, arguments: tuple[Any, ...], fill: Callable[[int], int]
) -> Iterator[Measure]:
    """Jobs per second, from the first worker's start to the last one's end."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(size)
    pipes: list[Connection[Any, Any]] = []
    processes = []
    for _ in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, barrier, open_worker, arguments), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()

    def measure(count: int) -> tuple[float]:
        fill(count)
        for pipe in pipes:
            pipe.send(True)
        answers = [pipe.recv() for pipe in pipes]
        done = sum(answer[0] for answer in answers)
        if done != count:
            raise AssertionError(f"{done} of {count} jobs were done")
        return (count / (max(end for _, _, end in answers) - min(began for _, began, _ in answers)),)

    try:
        yield measure
    finally:
        for pipe in pipes:
            pipe.send(False)
        for process in processes:
            process.join(_TIMEOUT)


def _work(
    commands: Connection[Any, Any], barrier: Barrier, open_worker: OpenWorker, arguments: tuple[Any, ...]
) -> None:
    with open_worker(*arguments) as step:
        drain = until_empty(step)
        step()
        commands.send(True)
        while commands.recv():
            barrier.wait(_TIMEOUT)
            began = time.monotonic()
            done = drain(None)
            commands.send((done, began, time.monotonic()))
