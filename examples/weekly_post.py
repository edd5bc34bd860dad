"""Recurring posts: a bakery's week.

    python examples/weekly_post.py               # stores the schedules, and shows what comes next
    assistly worker --publish mastodon=stdout    # creates the jobs, and publishes them; needs the extra `cli`

The schedules are the ones below: each start of the program stores them, which changes nothing unless this
file has changed, and removes those that are no longer in it. What a person has disabled stays disabled. The
storage is the one that the environment describes, by default data/assistly.db.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from assistly.storage import Storage, open_storage

ZONE = "Europe/London"
PREFIX = "bakery/"
"""How the ids begin, so that schedules of others are left alone."""


class Weekly(NamedTuple):
    """A post on some days, at a time of the clock."""

    id: str
    cron: str
    content: str


WEEK = (
    Weekly("bread", "0 9 * * MON-FRI", "The bread is out."),
    Weekly("cake", "30 14 * * SAT", "Cake for the weekend!"),
    Weekly("closing", "0 18 L * *", "It is the last day of the month: old bread for half the price."),
)


def put_all(storage: Storage, week: Iterable[Weekly] = WEEK) -> None:
    """Store the schedules of the week, and remove those of earlier runs that are not in it."""
    wanted = {f"{PREFIX}{weekly.id}": weekly for weekly in week}
    with storage.transaction() as tx:
        stored = {schedule.id: schedule for schedule in tx.schedules.list(after=PREFIX, limit=1000)}
        for id in stored:
            if id.startswith(PREFIX) and id not in wanted:
                tx.schedules.remove(id)
        for id, weekly in wanted.items():
            tx.schedules.put(
                id,
                "mastodon",
                weekly.content,
                cron=weekly.cron,
                zone=ZONE,
                # A post may be at most two hours late. Of missed ones only the last is published, if
                # it is not later than that.
                max_lateness=timedelta(hours=2),
                catch_up="last",
                enabled=id not in stored or stored[id].enabled,
            )


def upcoming(storage: Storage, count: int = 5) -> list[tuple[datetime, str]]:
    """The next posts, in the bakery's time."""
    times = [
        (time.astimezone(ZoneInfo(ZONE)), schedule.content)
        for schedule in storage.schedules.list(after=PREFIX, limit=1000)
        if schedule.id.startswith(PREFIX) and schedule.enabled
        for time in storage.schedules.preview(schedule.id, count)
    ]
    return sorted(times)[:count]


def main() -> None:
    with open_storage() as storage:
        put_all(storage)
        storage.schedules.run()  # a worker does it once a minute; this way the first jobs are there at once
        for time, content in upcoming(storage):
            print(f"{time:%a %d %b %H:%M}  {content}")


if __name__ == "__main__":
    main()
