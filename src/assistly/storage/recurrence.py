"""The times of a schedule: cron expressions in the wall-clock time of a zone, or a fixed distance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from typing import TYPE_CHECKING

from . import validation as check
from .errors import InvalidValue
from .records import record

if TYPE_CHECKING:
    from cronsim import CronSim

_MICROSECOND = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_SHORTEST = _SECOND
_FIRST = datetime.min.replace(tzinfo=UTC)
# Local times of moments that are nearer to the year 1 may not exist.
_MARGIN = timedelta(days=2)
_FIELDS = "minute, hour, day of month, month and day of week, such as '0 9 * * MON' for Mondays at 9:00"


@record
class Times:
    """The slots of a schedule, in UTC: by `cron` in `zone`, or `starts_at` and each `every` after it.

    None of them is before `starts_at` or after `ends_at`. A wall-clock time that does not exist, since
    clocks are set forward, stands for the next moment that exists; one that exists twice, since they are set
    back, for the first. Slots are distinct, and in order.
    """

    cron: str | None
    every: timedelta | None
    zone: str
    starts_at: datetime
    ends_at: datetime | None

    def since(self, moment: datetime) -> Iterator[datetime]:
        """The slots at `moment` and later. A cron expression that does not come in 50 years has no more."""
        begin = max(moment, self.starts_at)
        slots = _every_since(self.starts_at, self.every, begin) if self.every else self._cron_since(begin)
        return slots if self.ends_at is None else takewhile(self._is_before_end, slots)

    def first_since(self, moment: datetime) -> datetime | None:
        """The first slot at `moment` or later, or None."""
        return next(self.since(moment), None)

    def last_before(self, moment: datetime) -> datetime | None:
        """The last slot before `moment`, or None."""
        end = moment if self.ends_at is None else min(moment, check.later(self.ends_at, _MICROSECOND))
        if end <= self.starts_at:
            return None
        if self.every:
            return self.starts_at + (end - _MICROSECOND - self.starts_at) // self.every * self.every
        last = self._cron_before(end)
        return last if last is not None and last >= self.starts_at else None

    def has(self, moment: datetime) -> bool:
        """Whether `moment` is a slot."""
        return self.first_since(moment) == moment

    def _is_before_end(self, slot: datetime) -> bool:
        return self.ends_at is None or slot <= self.ends_at

    def _cron_since(self, moment: datetime) -> Iterator[datetime]:
        zone = zone_of(self.zone)
        last = None
        try:
            # A time that does not exist stands for the first moment after the gap, and is before it.
            before = max(moment, _FIRST + _MARGIN) - _MICROSECOND
            for wall in _walls(self.cron, _wall(before, zone)):
                slot = _moment(wall, zone)
                if slot >= moment and slot != last:
                    yield slot
                    last = slot
        except OverflowError:
            return

    def _cron_before(self, moment: datetime) -> datetime | None:
        if moment < _FIRST + _MARGIN:
            return None
        zone = zone_of(self.zone)
        last = moment - _MICROSECOND
        try:
            wall = _latest_wall(last, zone)
            for earlier in _walls(self.cron, wall.replace(microsecond=0) + _SECOND, reverse=True):
                slot = _moment(earlier, zone)
                if slot <= last:
                    return slot
        except (OverflowError, ValueError):
            pass
        return None


def checked_cron(expression: object) -> str:
    """A cron expression of five fields that comes at least once in 50 years."""
    text = check.name("cron", expression)
    fields = len(text.split())
    if fields != 5:
        raise InvalidValue(f"cron {check.shown(text)} has {fields} fields instead of five: {_FIELDS}")
    from cronsim import CronSimError

    try:
        if next(_walls(text, datetime(2000, 1, 1)), None) is None:  # noqa: DTZ001 - wall-clock time
            raise InvalidValue(f"cron {check.shown(text)} has no time within 50 years")
    except (CronSimError, ValueError) as error:
        if isinstance(error, InvalidValue):
            raise
        reason = str(error).lower() if isinstance(error, CronSimError) else "bad number"
        if "-" in text:
            reason += "; a range goes upwards, and a week from SUN to SAT: write FRI,SAT,SUN,MON for FRI-MON"
        raise InvalidValue(
            f"cron {check.shown(text)} is not valid ({reason}): its five fields are {_FIELDS}"
        ) from None
    return text


def checked_every(every: object) -> timedelta:
    """A distance of at least a second."""
    checked = check.duration("every", every, zero=False)
    if checked < _SHORTEST:
        raise InvalidValue(f"every must be at least one second, not {checked}")
    return checked


def zone_of(name: object) -> tzinfo:
    """The zone of this IANA name."""
    text = check.name("zone", name)
    if text == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise InvalidValue(
            "zone must be the IANA name of a time zone, such as 'Europe/Berlin' or 'UTC'; this system does "
            f"not know {check.shown(text)}"
        ) from None


def _every_since(start: datetime, every: timedelta, moment: datetime) -> Iterator[datetime]:
    try:
        slot = start - (start - moment) // every * every
        while True:
            yield slot
            slot += every
    except OverflowError:
        return


def _walls(cron: str | None, wall: datetime, *, reverse: bool = False) -> CronSim:
    from cronsim import CronSim

    assert cron is not None  # noqa: S101 - one of the two is given
    return CronSim(cron, wall, reverse)


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _latest_wall(moment: datetime, zone: tzinfo) -> datetime:
    """A wall-clock time that none is after whose first moment is not after this one.

    Where an hour exists twice, all its times have their first moments before the second one begins.
    """
    local = moment.astimezone(zone)
    first, second = local.replace(fold=0).utcoffset(), local.replace(fold=1).utcoffset()
    assert first is not None and second is not None  # noqa: S101, PT018 - both are of a zone
    return _wall(moment, zone) + max(first - second, timedelta(0))


def _moment(wall: datetime, zone: tzinfo) -> datetime:
    """The first moment with this wall-clock time; if there is none, the first with a later one."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if _wall(moment, zone) == wall:
        return moment
    earlier = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while moment - earlier > _SECOND:
        middle = earlier + (moment - earlier) // _SECOND // 2 * _SECOND
        if _wall(middle, zone) < wall:
            earlier = middle
        else:
            moment = middle
    return moment
