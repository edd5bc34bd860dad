"""The queue over time: jobs by hour, status and platform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .status import JobCount

if TYPE_CHECKING:
    from assistly.storage import Storage

_HOUR = timedelta(hours=1)
_LIMIT = 1000

KINDS = ("posted", "dead_letter", "retrying", "scheduled")
"""The shown statuses, in this order."""


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour, and its jobs by status: posted or dead letters in the past, due ones in the future."""

    start: datetime
    counts: dict[str, JobCount]


@dataclass(frozen=True, slots=True)
class History:
    """Consecutive hours. The hour of `now` is in the middle."""

    now: datetime
    hours: list[Hour]


def history(
    storage: Storage, *, platform: str | None = None, hours: int = 24, now: datetime | None = None
) -> History:
    """Return the jobs of a platform (None: of all) by hour, for a number of hours before and after `now`.

    Counting stops at 1,000 posted jobs an hour, and 1,000 waiting ones.
    """
    at = now or datetime.now(UTC)
    middle = at.replace(minute=0, second=0, microsecond=0)
    edges = [middle + number * _HOUR for number in range(-hours, hours + 1)]
    found: dict[datetime, dict[str, JobCount]] = {edge: {} for edge in edges[:-1]}
    for each in storage.queue.timeline(edges, limit=_LIMIT):
        if platform in (None, each.platform):
            counts = found[each.start]
            before = counts.get(str(each.status), JobCount(0))
            counts[str(each.status)] = JobCount(before.count + each.count, before.exact and each.exact)
    return History(at, [Hour(start, counts) for start, counts in found.items()])
