"""Runs the contenders of a row in turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .model import Contender, Figure, Round, Row, Surroundings

Say = Callable[[str], None]


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
    """One figure of one contender; the ratios are those of single rounds."""

    row: str
    title: str
    contender: str
    against: str
    role: str
    settings: str
    unit: str
    goal: float | None
    more_is_better: bool
    absolute: bool
    values: list[float]
    ratios: list[float]
    met: bool | None

    @property
    def value(self) -> Spread:
        return Spread.of(self.values)

    @property
    def ratio(self) -> Spread:
        return Spread.of(self.ratios)


@dataclass(frozen=True)
class Absence:
    row: str
    contender: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    results: list[Result]
    absent: list[Absence]


def run_row(
    row: Row, at: Surroundings, *, rounds: int | None = None, peers: bool = False, say: Say = lambda _: None
) -> Outcome:
    absent: list[Absence] = []
    with ExitStack() as stack:
        running = _Running(row, at, stack, absent, say)
        for contender in row.contenders:
            if peers or contender.role != "peer":
                running.open(contender)
        for turn in range(rounds or row.rounds[at.scale]):
            running.turn(turn)
    return Outcome(list(running.results()), absent)


class _Running:
    """The contenders of one row. A peer that cannot be had, or that fails, is left out and named."""

    def __init__(self, row: Row, at: Surroundings, stack: ExitStack, absent: list[Absence], say: Say) -> None:
        self._row = row
        self._at = at
        self._stack = stack
        self._absent = absent
        self._say = say
        self._measures: dict[Contender, Round] = {}
        self._figures: dict[Contender, list[tuple[float, ...]]] = {}

    def open(self, contender: Contender) -> None:
        missing = [name for name in contender.requires if not _is_installed(name)]
        if missing:
            reason = f"not installed: {', '.join(missing)}"
            self._absent.append(Absence(self._row.key, contender.name, reason))
            return
        self._say(f"{self._row.key}: opening {contender.name}")
        with self._tolerating(contender):
            measure = self._stack.enter_context(contender.open(self._at))
            measure(max(1, self._size(contender) // 10))
            self._measures[contender] = measure
            self._figures[contender] = []

    def turn(self, number: int) -> None:
        """One round of each; who begins changes."""
        order = list(self._measures)
        first = number % len(order)
        for contender in order[first:] + order[:first]:
            self._say(f"{self._row.key}, round {number + 1}: {contender.name}")
            with self._tolerating(contender):
                self._figures[contender].append(self._measures[contender](self._size(contender)))

    def results(self) -> Iterator[Result]:
        by_name = {contender.name: figures for contender, figures in self._figures.items()}
        for contender in self._measures:
            base = by_name[contender.against or self._row.floor.name]
            for place, figure in enumerate(self._row.figures_of(contender)):
                yield _result(self._row, contender, figure, place, self._figures[contender], base)

    @contextmanager
    def _tolerating(self, contender: Contender) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if contender.role != "peer":
                raise
            self._measures.pop(contender, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._absent.append(Absence(self._row.key, contender.name, reason[:300]))

    def _size(self, contender: Contender) -> int:
        return max(1, int(self._row.sizes[self._at.scale] * contender.share))


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _result(
    row: Row,
    contender: Contender,
    figure: Figure,
    place: int,
    rounds: list[tuple[float, ...]],
    base: list[tuple[float, ...]],
) -> Result:
    values = [one[place] for one in rounds]
    ratios = [value / theirs[place] for value, theirs in zip(values, base, strict=True)]
    is_judged = contender.role == "ours"
    met = figure.is_met(statistics.median(values), statistics.median(ratios)) if is_judged else None
    return Result(
        row=row.key,
        title=row.title,
        contender=contender.name,
        against=contender.against or row.floor.name,
        role=contender.role,
        settings=contender.settings,
        unit=figure.unit,
        goal=figure.goal if is_judged else None,
        more_is_better=figure.more_is_better,
        absolute=figure.absolute,
        values=values,
        ratios=ratios,
        met=met,
    )
