"""One row of the table, in turns between two checkouts: what a change costs or wins.

    git worktree add ../before 644b32b
    python -m benchmarks.compare pg-enqueue ../before .

Each checkout is measured in a process of its own, by the benchmarks of this one, which use the public API
alone. The ratio is of the second checkout to the first, within each round: above 1 the second is faster,
and where less is better (ms) it takes longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer

from .model import Environment, Row, Size
from .relay import over_network
from .rows import chosen
from .running import Spread
from .server import temporary_server

_ROOT = Path(__file__).parents[1]


def main(
    row: Annotated[str, typer.Argument(help="As in `python -m benchmarks`.")],
    first: Annotated[Path, typer.Argument(help="A checkout, a git worktree for example.")],
    second: Annotated[Path, typer.Argument(help="Another one.")] = _ROOT,
    *,
    rounds: Annotated[int, typer.Option(min=1)] = 11,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    contender: Annotated[
        str | None, typer.Option(help="Which contender of the row; default: the one that is judged.")
    ] = None,
    pool_size: Annotated[int, typer.Option(min=1)] = 10,
    database_url: Annotated[
        str | None,
        typer.Option(help="A Postgres; default: DATABASE_URL, else a temporary server of its own."),
    ] = None,
) -> None:
    """Measure a row in turns with two checkouts, and print the ratio of the second to the first."""
    try:
        (found,) = chosen([row])
    except ValueError:
        raise typer.BadParameter(f"{row!r} does not name one row") from None
    name = contender or next(one.name for one in found.contenders if one.role == "ours")
    size: Size = "tiny" if tiny else "quick" if quick else "full"
    with ExitStack() as stack:
        url = database_url or os.environ.get("DATABASE_URL") or None
        if url is None and found.needs_postgres:
            url = stack.enter_context(temporary_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = Environment(url, folder, size, pool_size)
        if found.network:
            environment = stack.enter_context(over_network(environment))
        measures = [
            stack.enter_context(_measuring(checkout, folder / str(number), found, name, environment))
            for number, checkout in enumerate((first, second))
        ]
        values: tuple[list[list[float]], list[list[float]]] = ([], [])
        for number in range(rounds):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                values[place].append(measures[place].measure(found.sizes[size]))
    sys.stdout.write(compared(found, values))


def compared(row: Row, values: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]]) -> str:
    """A line for each figure: both medians, and median and quartiles of the rounds' ratios."""
    lines = []
    for number, figure in enumerate(row.figures):
        first, second = ([one[number] for one in side] for side in values)
        ratio = Spread.of([after / before for before, after in zip(first, second, strict=True)])
        lines.append(
            f"{row.key}: {Spread.of(first).median:,.2f} then {Spread.of(second).median:,.2f} {figure.unit}, "
            f"ratio {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) in {len(first)} rounds\n"
        )
    return "".join(lines)


class _Measuring:
    """The process that measures with one checkout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._stdin: IO[str] = _not_none(process.stdin)
        self._stdout: IO[str] = _not_none(process.stdout)

    def measure(self, count: int) -> list[float]:
        self._stdin.write(f"{count}\n")
        self._stdin.flush()
        line = self._stdout.readline()
        if not line:
            raise typer.Exit(self._process.wait() or 1)
        values: list[float] = json.loads(line)
        return values

    def close(self) -> None:
        self._stdin.close()
        self._process.wait()


@contextmanager
def _measuring(
    checkout: Path, packages: Path, row: Row, contender: str, environment: Environment
) -> Iterator[_Measuring]:
    _link_packages(checkout.resolve(), packages)
    request = {
        "row": row.key,
        "contender": contender,
        "url": environment.url,
        "folder": str(environment.folder),
        "size": environment.size,
        "pool_size": environment.pool_size,
    }
    process = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-m", "benchmarks.compared", json.dumps(request)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(packages)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    measuring = _Measuring(process)
    try:
        yield measuring
    finally:
        measuring.close()


def _link_packages(checkout: Path, packages: Path) -> None:
    """A folder for PYTHONPATH with the packages where an installation puts them: migrations inside."""
    storage = packages / "assistly" / "storage"
    storage.mkdir(parents=True)
    source = checkout / "src" / "assistly"
    for file in source.iterdir():
        if file.name != "storage":
            (packages / "assistly" / file.name).symlink_to(file)
    for file in (source / "storage").iterdir():
        (storage / file.name).symlink_to(file)
    (storage / "migrations").symlink_to(checkout / "migrations")


def _not_none(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise AssertionError("the process was started without a pipe")
    return stream


if __name__ == "__main__":
    typer.run(main)
