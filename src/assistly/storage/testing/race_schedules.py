"""Races over schedules: what each racer does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ..records import Job, Schedule
from .races import Racer

DAILY = "0 9 * * *"


def run_all(racer: Racer, moments: Sequence[datetime], ahead: timedelta) -> list[list[Job]]:
    schedules = racer.storage.schedules
    return racer.rounds(moments, lambda now: schedules.run(ahead=ahead, now=now))


def put_and_run(racer: Racer, ids: Sequence[str], ahead: timedelta) -> list[tuple[Schedule, list[Job]]]:
    """All of them put the same schedule for the first time."""
    schedules = racer.storage.schedules

    def turn(id: str) -> tuple[Schedule, list[Job]]:
        return schedules.put(id, "x", "hello", cron=DAILY), schedules.run(ahead=ahead)

    return racer.rounds(ids, turn)


def run_or_change(racer: Racer, ids: Sequence[str], ahead: timedelta) -> list[list[Job]]:
    """The first racer changes times and content, the second one switches, and the others run."""
    schedules = racer.storage.schedules

    def turn(id: str) -> list[Job]:
        if racer.number == 0:
            schedules.put(id, "x", "other", cron="0 10 * * *")
        elif racer.number == 1:
            schedules.disable(id)
            schedules.enable(id)
        return schedules.run(ahead=ahead)

    return racer.rounds(ids, turn)


def run_or_remove(racer: Racer, ids: Sequence[str], ahead: timedelta) -> list[list[Job]]:
    """The first racer removes the schedule, and the others run."""
    schedules = racer.storage.schedules

    def turn(id: str) -> list[Job]:
        if racer.number == 0:
            assert schedules.remove(id) is True
            return []
        return schedules.run(ahead=ahead)

    return racer.rounds(ids, turn)
