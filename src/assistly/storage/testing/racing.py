"""The base of the races: threads and processes that compete, and what came of each round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeVar, cast

import pytest

from ..engine.protocol import StorageBackend
from ..errors import StorageError
from .engine_spec import EngineSpec
from .fixtures import Contract, empty, needs_processes
from .races import ProcessRace, Race, RaceProcesses, ThreadRace

T = TypeVar("T")
E = TypeVar("E", bound=StorageError)

THREADS = 8
PROCESSES = 4


def rounds(answers: Sequence[Sequence[T]]) -> list[tuple[T, ...]]:
    """The answers of all racers, by round."""
    return [*zip(*answers, strict=True)]


def one_winner(answers: Sequence[T | E], error: type[E]) -> tuple[T, list[E]]:
    """The answer of the only racer that was not refused, and the errors of the others."""
    refused = [answer for answer in answers if isinstance(answer, error)]
    won = [answer for answer in answers if not isinstance(answer, error)]
    assert len(won) == 1, f"{len(won)} won, one should"
    return cast("T", won[0]), refused


def flat(batches: Sequence[Sequence[T]]) -> list[T]:
    return [*chain.from_iterable(batches)]


class RacingContract(Contract):
    """Threads on one storage and, where the engine has `multi_process`, processes on one place.

    The latter need the fixture `engine_spec`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def race_processes(cls) -> Iterator[RaceProcesses]:
        processes = RaceProcesses(PROCESSES)
        yield processes
        processes.stop()

    @pytest.fixture(params=["threads", "processes"])
    def race(
        self,
        request: pytest.FixtureRequest,
        backend: StorageBackend,
        maybe_spec: EngineSpec | None,
        race_processes: RaceProcesses,
    ) -> Iterator[Race]:
        empty(backend)
        if request.param == "threads":
            race: Race = ThreadRace(backend, THREADS)
        else:
            race = ProcessRace(backend, race_processes, needs_processes(backend, maybe_spec))
        yield race
        race.check_history()
