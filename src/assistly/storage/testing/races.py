"""Races between threads of this process, or between processes, which start at the same time."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import BrokenBarrierError
from typing import Any, Protocol, TypeVar, TypeVarTuple

import pytest

from ..engine.protocol import StorageBackend
from ..errors import StorageError
from ..storage import Storage
from .engine_spec import EngineSpec
from .fixtures import START, open_for_test
from .history import RecordedCall, Recorder, recorded, write_history
from .history_checks import ImpossibleHistory, check

T = TypeVar("T")
E = TypeVar("E", bound=StorageError)
Item = TypeVar("Item")
Args = TypeVarTuple("Args")

TIMEOUT = 30.0
"""Seconds to wait for a racer at a barrier, or for its answer."""

_LONGER = 2 * TIMEOUT
_SWITCH_INTERVAL = 1e-5


def standing_clock() -> datetime:
    """The clock of all racers, which stands still."""
    return START


@dataclass(frozen=True)
class Racer:
    """One of `size` racers. `meet` returns when all of them have called it."""

    storage: Storage
    number: int
    size: int
    meet: Callable[[], object]

    @property
    def name(self) -> str:
        """A name that no other racer has."""
        return f"racer-{self.number}"

    def rounds(self, items: Iterable[Item], turn: Callable[[Item], T]) -> list[T]:
        """Call `turn` with each item, at the same time as all other racers; return the answers."""
        answers: list[T] = []
        for item in items:
            self.meet()
            answers.append(turn(item))
        return answers


def caught(kind: type[E], call: Callable[[], T]) -> T | E:
    """Return the result of the call, or its error if that is of this class."""
    try:
        return call()
    except kind as error:
        return error


@dataclass(frozen=True)
class RacerFailure:
    """A racer failed. `waited`: it only waited for another one, which failed."""

    number: int
    report: str
    waited: bool = False


@dataclass(frozen=True)
class RacerAnswer:
    """What the action of a racer returned, and the calls that it made."""

    answer: Any
    calls: list[RecordedCall]


class RacerGone(RacerFailure):
    """The process of a racer has ended."""


class AnyBarrier(Protocol):
    """The methods that the barriers of threads and of processes share."""

    def wait(self, timeout: float | None = None) -> int: ...

    def abort(self) -> None: ...


def run_racer(
    storage: Storage, number: int, size: int, barrier: AnyBarrier, action: Callable[..., Any], *args: Any
) -> Any:
    """Call the action as a racer. Return a RacerAnswer, or a RacerFailure, which also breaks the barrier."""
    recorder = Recorder(f"racer-{number}")
    racer = Racer(recorded(storage, recorder), number, size, lambda: barrier.wait(TIMEOUT))
    try:
        racer.meet()
        return RacerAnswer(action(racer, *args), recorder.calls)
    except BrokenBarrierError:
        return RacerFailure(number, f"racer {number} waited for the others in vain", waited=True)
    except Exception:  # noqa: BLE001 - the test shows it
        barrier.abort()
        return RacerFailure(number, f"racer {number}:\n{traceback.format_exc()}")


class Race(ABC):
    """A race of `size` racers. The test uses `storage` to prepare it, and to check the results.

    All calls are recorded, those of the test as well.
    """

    def __init__(self, backend: StorageBackend, size: int) -> None:
        self._recorder = Recorder("test")
        self._unrecorded = open_for_test(backend, standing_clock)
        self.storage = recorded(self._unrecorded, self._recorder)
        self.size = size

    def run(self, action: Callable[[Racer, *Args], T], *args: *Args) -> list[T]:
        """Run the action in all racers at the same time; return their answers. Fails if one fails."""
        answers = self._answers(action, args)
        failures = [answer for answer in answers if isinstance(answer, RacerFailure)]
        if failures:
            causes = [failure for failure in failures if not failure.waited] or failures
            path = write_history(self._recorder.calls)
            reports = "\n".join(failure.report for failure in causes)
            pytest.fail(f"{reports}\nthe history up to here is in {path}", pytrace=False)
        for answer in answers:
            self._recorder.calls += answer.calls
        return [answer.answer for answer in answers]

    def check_history(self) -> None:
        """Fail if the model cannot explain what was called and answered."""
        try:
            check(self._recorder.calls)
        except ImpossibleHistory as error:
            pytest.fail(str(error), pytrace=False)

    @abstractmethod
    def _answers(self, action: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]: ...


class ThreadRace(Race):
    """A race of threads on one storage."""

    def _answers(self, action: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        barrier = threading.Barrier(self.size)
        answers: list[Any] = [RacerFailure(number, f"racer {number} hangs") for number in range(self.size)]

        def part(number: int) -> None:
            answers[number] = run_racer(self._unrecorded, number, self.size, barrier, action, *args)

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
    """Switch threads more often: otherwise short operations would not be interrupted by other threads."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class RaceProcesses:
    """Processes that run the races of many tests, each on storages of its own.

    They are started at the first race and kept, since starting them takes longer than many races.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._context = multiprocessing.get_context("spawn")
        self._barrier = self._context.Barrier(size)
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []

    def answers(self, spec: EngineSpec, action: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run the action in all processes; return the answer or a RacerFailure of each."""
        if not self._processes:
            self._start()
        elif self._barrier.broken:
            self._barrier.reset()
        for pipe in self._pipes:
            pipe.send((spec, action, args))
        deadline = time.monotonic() + _LONGER
        answers = [self._answer(number, deadline) for number in range(self.size)]
        if any(isinstance(answer, RacerGone) for answer in answers):
            self.stop()
        return answers

    def stop(self) -> None:
        """End the processes. The next race starts new ones."""
        for pipe in self._pipes:
            with suppress(BrokenPipeError):
                pipe.send(None)
        for process in self._processes:
            process.join(TIMEOUT)
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
                target=_serve, args=(theirs, self._barrier, number, self.size), daemon=True
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
            return RacerGone(number, f"racer {number} died: {self._processes[number]}")
        self._processes[number].kill()
        return RacerGone(number, f"racer {number} hangs, and was ended")


class ProcessRace(Race):
    """A race of processes."""

    def __init__(self, backend: StorageBackend, processes: RaceProcesses, spec: EngineSpec) -> None:
        super().__init__(backend, processes.size)
        self._processes = processes
        self._spec = spec

    def _answers(self, action: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        return self._processes.answers(self._spec, action, args)


def _serve(orders: Connection, barrier: AnyBarrier, number: int, size: int) -> None:
    """Run actions from the pipe until None comes. Storages stay open for the next race."""
    storages: dict[str, Storage] = {}
    with ExitStack() as stack:
        while (order := orders.recv()) is not None:
            spec, action, args = order
            if spec.key not in storages:
                storage = open_for_test(spec.open(), standing_clock)
                storages[spec.key] = stack.enter_context(storage)
            orders.send(run_racer(storages[spec.key], number, size, barrier, action, *args))
