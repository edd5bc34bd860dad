"""How the cost of each operation grows with history.

    python -m benchmarks.scale [--sizes 10000 100000 1000000 5000000] [--engines postgres sqlite]

One database for each size. They are measured in turns, call by call, so that a slow moment of the
machine slows all sizes alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from assistly.storage import Storage, open_storage

from .scale_fill import History, fill_postgres, fill_sqlite, this_second
from .scale_operations import OPERATIONS, POSTED_AGE, FilledStorage, Operation
from .server import temporary_server
from .thresholds import GROWTH

SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
NOISE = 0.0001
"""Seconds. What takes less than this is as fast as it gets, whatever the ratio of two readings."""


@dataclass(frozen=True, slots=True)
class Result:
    engine: str
    operation: str
    hot: bool
    seconds: dict[int, float]
    """The median for each size."""
    growth: float
    """From the smallest size to the largest: the median of the rounds' ratios."""

    @property
    def holds(self) -> bool:
        return not self.hot or self.growth <= GROWTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--engines", nargs="+", default=["postgres", "sqlite"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=[], help="operations whose names contain one of these")
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    parser.add_argument("--keep", type=Path, help="a folder for the databases, which are used again")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = [one for one in OPERATIONS if not options.only or any(part in one.name for part in options.only)]
    results: list[Result] = []
    for engine in options.engines:
        with filled_storages(engine, sorted(options.sizes), options.database_url, options.keep) as opened:
            found = measure(engine, opened, wanted, options.rounds)
        sys.stdout.write(table(found))
        results += found
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


@contextmanager
def filled_storages(
    engine: str, sizes: Sequence[int], url: str | None, keep: Path | None
) -> Iterator[list[FilledStorage]]:
    with ExitStack() as stack:
        if engine == "postgres":
            url = stack.enter_context(temporary_server() if url is None else nullcontext(url))
            storages = [stack.enter_context(_postgres(url, size, keep=keep is not None)) for size in sizes]
        else:
            folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            storages = [stack.enter_context(_sqlite(folder / f"scale-{size}.db", size)) for size in sizes]
        yield [
            FilledStorage(storage, size, middle=_first(storage) + size // 2)
            for storage, size in zip(storages, sizes, strict=True)
        ]


def _first(storage: Storage) -> int:
    return storage.queue.list(limit=1)[0].id


@contextmanager
def _postgres(url: str, size: int, *, keep: bool) -> Iterator[Storage]:
    schema = f"assistly_scale_{size}"
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone()
        if not found:
            _tell(f"filling {schema}")
            fill_postgres(url, schema, History(size, this_second()))
        try:
            with open_storage(
                engine="postgres",
                database_url=url,
                schema=schema,
                retention_posted_days=POSTED_AGE.days,
                auto_prune=False,
            ) as storage:
                yield storage
        finally:
            if not keep:
                connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())


@contextmanager
def _sqlite(path: Path, size: int) -> Iterator[Storage]:
    if not path.exists():
        _tell(f"filling {path.name}")
        fill_sqlite(path, History(size, this_second()))
    _read_through(path)
    with open_storage(
        engine="sqlite",
        sqlite_path=str(path),
        retention_posted_days=POSTED_AGE.days,
        auto_prune=False,
    ) as storage:
        yield storage


def _read_through(path: Path) -> None:
    """What the system does not hold in memory is a matter of the disk, and not of the history."""
    with path.open("rb") as file:
        while file.read(2**20):
            pass


def measure(
    engine: str, opened: Sequence[FilledStorage], operations: Sequence[Operation], rounds: int
) -> list[Result]:
    return [_measure(engine, opened, operation, rounds) for operation in operations]


def _measure(engine: str, opened: Sequence[FilledStorage], operation: Operation, rounds: int) -> Result:
    _round(opened, operation)
    medians = [_round(opened, operation) for _ in range(rounds)]
    sizes = [filled.finished for filled in opened]
    smallest, largest = sizes[0], sizes[-1]
    return Result(
        engine,
        operation.name,
        operation.hot,
        {size: statistics.median(one[size] for one in medians) for size in sizes},
        statistics.median((one[largest] + NOISE) / (one[smallest] + NOISE) for one in medians),
    )


def _round(opened: Sequence[FilledStorage], operation: Operation) -> dict[int, float]:
    """The median for each size; the sizes take turns call by call."""
    seconds: dict[int, list[float]] = {filled.finished: [] for filled in opened}
    for number in range(operation.repeats):
        turn = number % len(opened)
        for filled in (*opened[turn:], *opened[:turn]):
            seconds[filled.finished].append(operation.measure(filled))
    return {size: statistics.median(calls) for size, calls in seconds.items()}


def table(results: Sequence[Result]) -> str:
    sizes = list(results[0].seconds)
    header = f"{results[0].engine + ', ms':28}" + "".join(f"{size:>12,}" for size in sizes)
    lines = [f"{header}{'growth':>10}"]
    for result in results:
        cells = "".join(f"{seconds * 1000:12.3f}" for seconds in result.seconds.values())
        verdict = "" if result.holds else f"  above {GROWTH}"
        lines.append(f"{result.operation:28}{cells}{result.growth:10.2f}{verdict}")
    return "\n".join(lines) + "\n"


def _tell(text: str) -> None:
    sys.stderr.write(f"{text} …\n")


if __name__ == "__main__":
    main()
