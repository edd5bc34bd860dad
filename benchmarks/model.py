"""The vocabulary: a row of the table, its figures, and who contends in it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote
from uuid import uuid4

T = TypeVar("T")

Scale = Literal["tiny", "quick", "full"]
ROUNDS: Mapping[Scale, int] = {"tiny": 1, "quick": 4, "full": 11}
Round = Callable[[int], "tuple[float, ...]"]
"""Does a workload of so many operations, and returns one number for each figure of the row."""


@dataclass(frozen=True)
class Surroundings:
    """What the contenders of a run share."""

    url: str | None
    folder: Path
    scale: Scale
    pool_size: int = 10

    @property
    def database_url(self) -> str:
        if self.url is None:
            raise RuntimeError("this row needs Postgres: give --database-url, or install the extra `bench`")
        return self.url

    def new_path(self) -> Path:
        return self.folder / f"{uuid4().hex}.db"

    @contextmanager
    def new_schema(self) -> Iterator[str]:
        import psycopg

        name = f"bench_{uuid4().hex[:12]}"
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        try:
            yield name
        finally:
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                connection.execute(f"DROP SCHEMA {name} CASCADE")

    @contextmanager
    def new_database(self) -> Iterator[str]:
        """The URL of a database of its own, for those that cannot be put into a schema."""
        import psycopg

        name = f"bench_{uuid4().hex[:12]}"
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            info = connection.info
            user, password = quote(info.user), quote(info.password, safe="")
            host, port = info.host, info.port
        try:
            yield f"postgresql://{user}:{password}@/{name}?host={quote(host, safe='/')}&port={port}"
        finally:
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True)
class Figure:
    unit: str
    goal: float | None
    """A ratio to the floor: at least that where more is better, else at most."""
    more_is_better: bool = True
    absolute: bool = False
    """The goal is for the figure itself."""

    def is_met(self, value: float, ratio: float) -> bool | None:
        if self.goal is None:
            return None
        reached = value if self.absolute else ratio
        return reached >= self.goal if self.more_is_better else reached <= self.goal


@dataclass(frozen=True, eq=False)
class Contender:
    name: str
    open: Callable[[Surroundings], AbstractContextManager[Round]]
    settings: str = ""
    role: Literal["floor", "ours", "peer", "reference"] = "ours"
    goals: tuple[float | None, ...] | None = None
    """Instead of those of the row's figures."""
    requires: tuple[str, ...] = ()
    """Names of distributions; without one of them it is left out."""
    against: str | None = None
    """Whom the ratio is to, if not to the floor."""
    share: float = 1.0
    """Of the row's operations; for those that would take minutes."""


@dataclass(frozen=True)
class Row:
    """The first contender is the floor."""

    key: str
    title: str
    figures: tuple[Figure, ...]
    sizes: dict[Scale, int]
    contenders: Sequence[Contender]
    rounds: Mapping[Scale, int] = field(default_factory=lambda: ROUNDS)

    @property
    def floor(self) -> Contender:
        return self.contenders[0]

    def figures_of(self, contender: Contender) -> tuple[Figure, ...]:
        if contender.goals is None:
            return self.figures
        return tuple(
            replace(figure, goal=goal) for figure, goal in zip(self.figures, contender.goals, strict=True)
        )


def throughput(run: Callable[[T], int], prepare: Callable[[int], T]) -> Round:
    """Operations per second of `run`, which returns how many it did; `prepare` is not counted."""

    def measure(count: int) -> tuple[float]:
        work = prepare(count)
        gc.collect()
        began = time.perf_counter()
        done = run(work)
        seconds = time.perf_counter() - began
        if done != count:
            raise AssertionError(f"{done} of {count} operations were done")
        return (count / seconds,)

    return measure


def times(operation: Callable[[int], object]) -> Callable[[range], int]:
    """Calls it with each number of a range."""

    def run(numbers: range) -> int:
        for number in numbers:
            operation(number)
        return len(numbers)

    return run


class Numbers:
    """Ranges that never repeat a number."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, count: int) -> range:
        first, self._next = self._next, self._next + count
        return range(first, first + count)
