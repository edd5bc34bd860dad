"""Counting jobs up to a limit, in the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise

from ..records import Job, JobStatus, QueueDepth, TimelineCount
from .model_state import ModelState

WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
DEAD_LETTERS = 10_000


def is_unknown(job: Job) -> bool:
    """What `Job.outcome_unknown` should say."""
    return job.status == "dead_letter" and bool(job.publish_started_at)


def is_missed(job: Job) -> bool:
    """What `Job.missed` should say. A worker may report an error that begins with the same word."""
    reported = job.attempts and job.attempts[-1].error == (job.dead_letter_reason or "")[:4096]
    is_late = job.status == "dead_letter" and (job.dead_letter_reason or "").startswith("missed: ")
    return is_late and not reported and not is_unknown(job)


class ModelCounts:
    """The part of the model's queue that counts."""

    def __init__(self, state: ModelState) -> None:
        self._state = state

    def _having(self, *statuses: str) -> list[Job]:
        jobs = self._state.tables.jobs
        return [jobs[id] for id in sorted(jobs) if jobs[id].status in statuses]

    def depths(self, *, limit: int = 10_000) -> Sequence[QueueDepth]:
        now = self._state.now()
        found: list[QueueDepth] = []
        waiting = sorted(self._having(*WAITING), key=lambda job: job.due_at)
        others = [self._having(status) for status in JobStatus if status not in WAITING]
        for group in (waiting, *others):
            counted = group[:limit]
            for platform, status in {(job.platform, job.status) for job in counted}:
                jobs = [job for job in counted if (job.platform, job.status) == (platform, status)]
                times = [job.due_at for job in jobs if status in WAITING]
                found.append(
                    QueueDepth(
                        platform=platform,
                        status=status,
                        count=len(jobs),
                        exact=len(group) <= limit,
                        due=len([time for time in times if time <= now]),
                        oldest_due_at=min((time for time in times if time <= now), default=None),
                        next_due_at=min((time for time in times if time > now), default=None),
                        expired=len([job for job in jobs if job.lease_until and job.lease_until <= now]),
                        unknown=len([job for job in jobs if is_unknown(job)]),
                        missed=len([job for job in jobs if is_missed(job)]),
                    )
                )
        return sorted(found, key=lambda depth: (depth.platform, str(depth.status)))

    def timeline(self, edges: Sequence[datetime], *, limit: int = 1000) -> Sequence[TimelineCount]:
        newest = self._having("dead_letter")[-DEAD_LETTERS:]
        all_letters = len(self._having("dead_letter")) <= DEAD_LETTERS
        waiting = sorted(self._having(*WAITING), key=lambda job: job.due_at)
        posted = self._having("posted")
        kinds: list[tuple[list[Job], Callable[[Job], datetime | None], int, bool]] = [
            (waiting, lambda job: job.due_at, limit, True),
            (posted, lambda job: job.posted_at, limit, True),
            (newest, lambda job: job.dead_letter_at, DEAD_LETTERS, all_letters),
        ]
        found: list[TimelineCount] = []
        for jobs, time_of, most, is_all in kinds:
            for start, end in pairwise(edges):
                within = [job for job in jobs if (at := time_of(job)) and start <= at < end]
                for platform, status in {(job.platform, job.status) for job in within[:most]}:
                    count = [(job.platform, job.status) for job in within[:most]].count((platform, status))
                    found.append(
                        TimelineCount(start, platform, status, count, is_all and len(within) <= most)
                    )
        return sorted(found, key=lambda count: (count.start, count.platform, str(count.status)))
