"""A chart of jobs by hour, as shapes that a template draws."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from assistly.views.history import KINDS

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from assistly.views.history import History, Hour

WIDTH = 960
HEIGHT = 200
_BASE = 170
_TOP = 14
_LEFT = 44
_GAP = 2
_LABEL_HOURS = 6
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle for the jobs with a status in one hour. Lengths are in the units of the drawing."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Label:
    """A text below or beside the bars."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one hour as text, for people who do not see the drawing."""

    hour: str
    counts: list[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of WIDTH by HEIGHT. `now_x` is the position of the current time. `rows`: hours with jobs."""

    width: int
    height: int
    base: int
    left: int
    now_x: float
    bars: list[Bar]
    hours: list[Label]
    levels: list[Label]
    kinds: tuple[str, ...]
    rows: list[Row]
    is_empty: bool


def chart(history: History, zone: tzinfo | None) -> Chart:
    """Draw the hours. Bars of different statuses stand on top of each other."""
    hours = history.hours
    step = (WIDTH - _LEFT) / len(hours)
    most = max((_sum(hour) for hour in hours), default=0)
    level = _round_up(most)
    bars: list[Bar] = []
    labels: list[Label] = []
    for number, hour in enumerate(hours):
        x, y = _LEFT + number * step, float(_BASE)
        for kind in KINDS:
            count = hour.counts.get(kind)
            if count is None or not count.count:
                continue
            height = max(1.5, count.count / level * (_BASE - _TOP))
            y -= height
            bars.append(
                Bar(kind, round(x + _GAP / 2, 1), round(y, 1), round(step - _GAP, 1), round(height, 1))
            )
        local = hour.start.astimezone(zone)
        if local.hour % _LABEL_HOURS == 0:
            labels.append(Label(round(x, 1), _BASE + 18, _label(local)))
    return Chart(
        WIDTH,
        HEIGHT,
        _BASE,
        _LEFT,
        round(_LEFT + (history.now - hours[0].start) / _HOUR * step, 1),
        bars,
        labels,
        [Label(_LEFT - 6, _TOP + 4, f"{level:,}"), Label(_LEFT - 6, _BASE, "0")],
        KINDS,
        [_row(hour, zone) for hour in hours if hour.counts],
        is_empty=most == 0,
    )


def _sum(hour: Hour) -> int:
    return sum(hour.counts[kind].count for kind in KINDS if kind in hour.counts)


def _round_up(most: int) -> int:
    """Round up to 1, 2 or 5 followed by zeros."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if factor * size >= max(most, 1):
                return factor * size
        size *= 10


def _label(local: datetime) -> str:
    return local.strftime("%a %d") if local.hour == 0 else local.strftime("%H:%M")


def _row(hour: Hour, zone: tzinfo | None) -> Row:
    counts = (hour.counts.get(kind) for kind in KINDS)
    texts = ["0" if count is None else f"{count.count:,}{'' if count.exact else '+'}" for count in counts]
    return Row(hour.start.astimezone(zone).strftime("%a %d %b %H:%M"), texts)
