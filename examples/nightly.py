"""A script for cron: it schedules the day's posts from a file, cleans up, and prints a report.

    17 * * * *  cd /srv/bot && python nightly.py posts.jsonl

To try it in the root of the repository, with the file beside it: python examples/nightly.py --day 2026-03-02

The first run of a day schedules the posts of that day; the later ones are there in case the machine was down
at midnight. Two runs may overlap, and a run may be killed at any moment.

Each line of the file is a JSON object: `command` (the name of the post), `platform`, `content`, `at`, and
`approval` if a person has to agree first; those are left out. The storage is the one that the
environment describes, by default data/assistly.db.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from assistly.storage import IdempotencyMismatch, LockLost, ScheduleConflict, Storage, open_storage
from assistly.storage import WorkerLock as Lock

MIN_GAP = timedelta(minutes=30)
POSTS = Path(__file__).with_name("posts.jsonl")

Post = dict[str, Any]
Report = dict[str, Any]


def run(storage: Storage, posts: Iterable[Post], day: date) -> Report | None:
    """Schedule, prune and report; None if another run is in progress."""
    lock = storage.lock.acquire(f"{socket.gethostname()}-{os.getpid()}", name="nightly")
    if lock is None:
        return None
    try:
        plan = plan_once(storage, lock, posts, day)
    except LockLost:
        return None  # this process was suspended for so long that another run took over
    finally:
        storage.lock.release(lock)
    storage.prune()
    report = plan | {"queue": {status.value: count for status, count in storage.queue.counts().items()}}
    storage.snapshots.put("nightly", report)
    return report


def plan_once(storage: Storage, lock: Lock, posts: Iterable[Post], day: date) -> Report:
    """In one transaction: if this run dies, the next one does the whole day."""
    with storage.transaction() as tx:
        tx.lock.renew(lock)  # from here on nobody can take the lock before the transaction has ended
        report: Report = tx.idempotency.run_once(f"nightly:{day}", lambda: plan(tx, posts, day))
        return report


def plan(tx: Storage, posts: Iterable[Post], day: date) -> Report:
    scheduled: set[int] = set()
    refused: set[str] = set()
    for post in posts:
        at = datetime.fromisoformat(post["at"]).astimezone(UTC)
        if at.date() != day or post.get("approval"):
            continue
        try:
            scheduled.add(schedule(tx, post, at))
        except IdempotencyMismatch:
            refused.add(post["command"])  # the name belongs to a job with another content
    return {"day": f"{day}", "scheduled": len(scheduled), "refused": sorted(refused)}


def schedule(tx: Storage, post: Post, at: datetime) -> int:
    """At that time, or at the first one after it that is far enough from other posts; the job's id."""
    while True:
        try:
            return tx.queue.schedule(
                post["platform"], post["content"], at, idempotency_key=post["command"], min_gap=MIN_GAP
            ).id
        except ScheduleConflict as conflict:
            at = conflict.job.scheduled_at + MIN_GAP


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Schedule the posts of a day.")
    parser.add_argument(
        "posts", type=Path, nargs="?", default=POSTS, help="default: the file beside this one"
    )
    parser.add_argument(
        "--day", type=date.fromisoformat, default=datetime.now(UTC).date(), help="default: today"
    )
    options = parser.parse_args(arguments)
    try:
        lines = options.posts.read_text("utf-8").splitlines()
        posts = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        parser.error(f"{options.posts} cannot be read: {error}")
    with open_storage() as storage:
        report = run(storage, posts, options.day)
    if report:
        print(json.dumps(report, indent=2))
    else:
        print("another run is in progress, or was killed less than 45 s ago", file=sys.stderr)


if __name__ == "__main__":
    main()
