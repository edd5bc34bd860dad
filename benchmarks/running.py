"""Runs the contenders of a row in turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .model import Contender, Environment, Figure, Measure, Role, Row
from .relay import over_network

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass(frozen=True)
class Result:
    """One figure of one contender, a value for each round."""

    row: str
    title: str
    contender: str
    role: Role
    settings: str
    unit: str
    more_is_better: bool
    figure: int
    """Which one of the row's."""
    values: list[float]
    ratios: list[float]
    """To the floor, round by round."""

    @property
    def value(self) -> Spread:
        return Spread.of(self.values)

    @property
    def ratio(self) -> Spread:
        return Spread.of(self.ratios)


@dataclass(frozen=True)
class LeftOut:
    """A library that is not installed, or that failed."""

    row: str
    contender: str
    reason: str


@dataclass(frozen=True)
class RowResults:
    results: list[Result]
    left_out: list[LeftOut]


def run_row(
    row: Row,
    environment: Environment,
    *,
    rounds: int | None = None,
    peers: bool = False,
    progress: Progress = lambda _: None,
) -> RowResults:
    with ExitStack() as stack:
        if row.network:
            environment = stack.enter_context(over_network(environment))
        running = _RunningRow(row, environment, stack, progress)
        for contender in row.contenders:
            if peers or not contender.requires:
                running.open(contender)
        for number in range(rounds or row.rounds[environment.size]):
            running.round(number)
    return RowResults(list(running.results()), running.left_out)


class _RunningRow:
    def __init__(self, row: Row, environment: Environment, stack: ExitStack, progress: Progress) -> None:
        self._row = row
        self._environment = environment
        self._stack = stack
        self._progress = progress
        self._measures: dict[Contender, Measure] = {}
        self._rounds: dict[Contender, list[tuple[float, ...]]] = {}
        self.left_out: list[LeftOut] = []

    def open(self, contender: Contender) -> None:
        missing = [name for name in contender.requires if not _is_installed(name)]
        if missing:
            self._leave_out(contender, f"not installed: {', '.join(missing)}")
            return
        self._progress(f"{self._row.key}: opening {contender.name}")
        with self._leaving_out_libraries(contender):
            measure = self._stack.enter_context(contender.open(self._environment))
            measure(max(1, self._size(contender) // 10))
            self._measures[contender] = measure
            self._rounds[contender] = []

    def round(self, number: int) -> None:
        """One round of each; who begins changes."""
        order = list(self._measures)
        first = number % len(order)
        for contender in order[first:] + order[:first]:
            self._progress(f"{self._row.key}, round {number + 1}: {contender.name}")
            with self._leaving_out_libraries(contender):
                self._rounds[contender].append(self._measures[contender](self._size(contender)))

    def results(self) -> Iterator[Result]:
        by_name = {contender.name: rounds for contender, rounds in self._rounds.items()}
        for contender in self._measures:
            base = by_name[contender.against or self._row.floor.name]
            for number, figure in enumerate(self._row.figures):
                values = [one[number] for one in self._rounds[contender]]
                yield self._result(contender, figure, number, values, [one[number] for one in base])

    def _result(
        self, contender: Contender, figure: Figure, number: int, values: list[float], base: list[float]
    ) -> Result:
        return Result(
            row=self._row.key,
            title=self._row.title,
            contender=contender.name,
            role=contender.role,
            settings=contender.settings,
            unit=figure.unit,
            more_is_better=figure.more_is_better,
            figure=number,
            values=values,
            ratios=[value / theirs for value, theirs in zip(values, base, strict=True)],
        )

    @contextmanager
    def _leaving_out_libraries(self, contender: Contender) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not contender.requires:
                raise
            self._measures.pop(contender, None)
            self._leave_out(contender, " ".join(f"{type(error).__name__}: {error}".split())[:300])

    def _leave_out(self, contender: Contender, reason: str) -> None:
        self.left_out.append(LeftOut(self._row.key, contender.name, reason))

    def _size(self, contender: Contender) -> int:
        return max(1, int(self._row.sizes[self._environment.size] * contender.fraction))


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
