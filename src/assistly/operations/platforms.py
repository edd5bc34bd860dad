"""Pauses, resumes and limits platforms."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from assistly.storage import InvalidValue, NotFound

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Platform, Storage

    from .audit import Person


def pause(
    storage: Storage,
    platform: str,
    person: Person,
    *,
    until: datetime | None = None,
    shown: Callable[[datetime], str] = str,
) -> Platform:
    """Pause a platform `until` then (default: until it is resumed), and return it.

    The note of the person is the reason. Raises InvalidValue if `until` is in the past; `shown` formats that
    time for the message.
    """

    def work(tx: Storage) -> Platform:
        paused = tx.platforms.pause(platform, until=until, reason=person.note, by=person.name)
        if until is not None and not paused.paused:
            raise InvalidValue(
                f"{shown(until)} is in the past: nothing was changed; `assistly platforms resume "
                f"{platform}` ends a pause"
            )
        end = paused.paused_until
        text = None if end is None else end.astimezone(UTC).isoformat().replace("+00:00", "Z")
        audit.record(tx, "platforms.pause", person, platform=platform, until=text)
        return paused

    return atomically(storage, work)


def resume(storage: Storage, platform: str, person: Person) -> Platform | None:
    """Resume a platform, and return it. Raises NotFound if it is not paused."""

    def work(tx: Storage) -> Platform | None:
        if not tx.platforms.resume(platform):
            raise NotFound(f"platform {platform!r} is not paused")
        audit.record(tx, "platforms.resume", person, platform=platform)
        return tx.platforms.get(platform)

    return atomically(storage, work)


def limit(
    storage: Storage, platform: str, person: Person, *, count: int | None, per: timedelta | None
) -> Platform:
    """Limit all workers together to `count` jobs within `per`; None for both removes the limit."""

    def work(tx: Storage) -> Platform:
        limited = tx.platforms.limit(platform, count, per)
        seconds = None if per is None else per.total_seconds()
        audit.record(tx, "platforms.limit", person, platform=platform, count=count, per=seconds)
        return limited

    return atomically(storage, work)
