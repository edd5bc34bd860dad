"""A row of the table: its figures, and the contenders that are measured in it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote
from uuid import uuid4

T = TypeVar("T")

Size = Literal["tiny", "quick", "full"]
Role = Literal["floor", "ours", "peer", "reference"]
ROUNDS: Mapping[Size, int] = {"tiny": 1, "quick": 4, "full": 11}
Measure = Callable[[int], "tuple[float, ...]"]
"""Does one round of so many operations, and returns one number for each figure of the row."""


@dataclass(frozen=True)
class Environment:
    """What all contenders of a run share: a server, a folder for files, and the sizes."""

    url: str | None
    folder: Path
    size: Size
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
        """The URL of a database of its own, for libraries that cannot be put into a schema."""
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
    more_is_better: bool = True


@dataclass(frozen=True, eq=False)
class Contender:
    name: str
    open: Callable[[Environment], AbstractContextManager[Measure]]
    settings: str = ""
    role: Role = "ours"
    requires: tuple[str, ...] = ()
    """Names of distributions beside our own; without one of them it is left out."""
    against: str | None = None
    """The contender that its ratio is to, if not the floor."""
    fraction: float = 1.0
    """Of the row's operations; for those that would take minutes."""


@dataclass(frozen=True)
class Row:
    """The first contender is the floor."""

    key: str
    title: str
    figures: tuple[Figure, ...]
    sizes: Mapping[Size, int]
    contenders: Sequence[Contender]
    rounds: Mapping[Size, int]
    network: bool = False
    """Postgres is reached over TCP, with half a millisecond added each way."""

    @property
    def floor(self) -> Contender:
        return self.contenders[0]

    @property
    def needs_postgres(self) -> bool:
        return self.key.startswith(("pg-", "net-", "await-"))


def row(
    key: str,
    title: str,
    unit: str,
    sizes: tuple[int, int, int],
    *contenders: Contender,
    rounds: tuple[int, int, int] | None = None,
) -> Row:
    """A row with one figure, of which more is better. Sizes and rounds are tiny, quick, full."""
    return Row(
        key,
        title,
        (Figure(unit),),
        sized(sizes),
        contenders,
        ROUNDS if rounds is None else sized(rounds),
    )


def sized(numbers: tuple[int, int, int]) -> dict[Size, int]:
    tiny, quick, full = numbers
    return {"tiny": tiny, "quick": quick, "full": full}


def throughput(run: Callable[[T], int], prepare: Callable[[int], T]) -> Measure:
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
