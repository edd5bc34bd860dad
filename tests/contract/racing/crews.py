"""Crews of racers. The processes are started once: that takes longer than many races."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar, TypeVarTuple

import pytest

from assistly.storage import Storage, StorageBackend

from .racer import PATIENCE, Failure, Place, Racer, run, serve, storage_on

T = TypeVar("T")
Args = TypeVarTuple("Args")

_LONGER = 2 * PATIENCE
_SWITCH_INTERVAL = 1e-5


class Crew(ABC):
    """`storage` is the test's own, to prepare a race and to look at what came of it."""

    def __init__(self, backend: StorageBackend, size: int) -> None:
        self.backend = backend
        self.storage: Storage = storage_on(backend)
        self.size = size

    def race(self, move: Callable[[Racer, *Args], T], *args: *Args) -> list[T]:
        """What each racer's move returned. They begin at one moment."""
        answers = self._answers(move, args)
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        if failures:
            causes = [failure for failure in failures if not failure.left] or failures
            pytest.fail("\n".join(failure.report for failure in causes), pytrace=False)
        return answers

    @abstractmethod
    def _answers(self, move: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]: ...


class Threads(Crew):
    """All of them on the one storage."""

    def _answers(self, move: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        barrier = threading.Barrier(self.size)
        answers: list[Any] = [Failure(number, f"racer {number} hangs") for number in range(self.size)]

        def part(number: int) -> None:
            answers[number] = run(self.storage, number, self.size, barrier, move, *args)

        threads = [threading.Thread(target=part, args=(number,), daemon=True) for number in range(self.size)]
        with _switching_often():
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + _LONGER
            for thread in threads:
                thread.join(max(0, deadline - time.monotonic()))
        return [*answers]


@contextmanager
def _switching_often() -> Iterator[None]:
    """Operations of microseconds would else each run as if alone."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class Gone(Failure):
    """The process is no more."""


class Pool:
    """Processes that run one move after the other, each on its own storages."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._context = multiprocessing.get_context("spawn")
        self._barrier = self._context.Barrier(size)
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []

    def answers(self, place: Place, move: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        if not self._processes:
            self._start()
        elif self._barrier.broken:
            self._barrier.reset()
        for pipe in self._pipes:
            pipe.send((place, move, args))
        deadline = time.monotonic() + _LONGER
        answers = [self._answer(number, deadline) for number in range(self.size)]
        if any(isinstance(answer, Gone) for answer in answers):
            self.stop()
        return answers

    def stop(self) -> None:
        for pipe in self._pipes:
            with suppress(BrokenPipeError):
                pipe.send(None)
        for process in self._processes:
            process.join(PATIENCE)
            process.kill()
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        self._processes.clear()

    def _start(self) -> None:
        self._barrier = self._context.Barrier(self.size)
        for number in range(self.size):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=serve, args=(theirs, self._barrier, number, self.size), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def _answer(self, number: int, deadline: float) -> Any:
        try:
            if self._pipes[number].poll(max(0, deadline - time.monotonic())):
                return self._pipes[number].recv()
        except EOFError:
            return Gone(number, f"racer {number} died: {self._processes[number]}")
        self._processes[number].kill()
        return Gone(number, f"racer {number} hangs, and was ended")


class Processes(Crew):
    def __init__(self, pool: Pool, place: Place) -> None:
        super().__init__(place.open(connections=2), pool.size)
        self._pool = pool
        self._place = place

    def _answers(self, move: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        return self._pool.answers(self._place, move, args)
