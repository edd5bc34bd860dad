"""The rules of the queue, for several workers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ..records import Failed, Job, JobStatus, Json, NewJob, Outcome, Posted, Released, Snoozed
from .fixtures import DAY, HOUR, LEASE, MINUTE, TICK
from .machine_sides import NONE, RETRY, Answers, Side, SideBySide, limits, picks

GAP = 10 * MINUTE
NO_JOB = 2**40
WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)

platforms = st.sampled_from(["x", "x", "mastodon", "\u00e9"])
contents = st.sampled_from(["", "hello", "h\u00e9llo \U0001f600"])
metadata = st.sampled_from([None, {}, {"n": 1}, {"n": 1.0}, {"n": True}])
keys = st.sampled_from([None, None, "k", "K"])
gaps = st.sampled_from([None, None, NONE, GAP])
offsets = st.builds(
    lambda offset, jitter: offset + jitter,
    st.sampled_from([NONE, NONE, GAP, -GAP, RETRY, HOUR, -HOUR]),
    st.sampled_from([NONE, TICK, -TICK]),
)
latenesses = st.sampled_from([None, None, NONE, MINUTE, DAY])
retries = st.sampled_from([None, 1, 3])
leases = st.sampled_from([MINUTE, LEASE])
workers = st.sampled_from(["ann", "bob"])
endings = st.sampled_from(["posted", "failed", "failed", "fatal", "retry at", "snoozed", "released"])
several = st.sampled_from([None, None, None, ["x"], ["mastodon", "\u00e9"]])
drafts = st.builds(dict, platform=platforms, content=contents, at=st.none() | offsets, key=keys, gap=gaps)


def outcome(job: Job, ending: str, at: datetime) -> Outcome:
    match ending:
        case "posted":
            return Posted(job, "remote-1")
        case "failed":
            return Failed(job, "busy")
        case "fatal":
            return Failed(job, "refused", retryable=False)
        case "retry at":
            return Failed(job, "busy", retry_at=at)
        case "snoozed":
            return Snoozed(job, at)
    return Released(job)


def ended(queue: Any, outcome: Outcome) -> Any:
    """The same by the method for one job."""
    match outcome:
        case Posted(job, remote_id):
            return queue.mark_posted(job, remote_id)
        case Failed(job, error, retry_at, retryable):
            return queue.mark_failed(job, error, retry_at=retry_at, retryable=retryable)
        case Snoozed(job, until):
            return queue.snooze(job, until)
        case Released(job):
            return queue.release(job)


class QueueRules(SideBySide):
    """`known["jobs"]` holds the jobs that were scheduled, `known["claims"]` all claims, stale ones too."""

    def at(self, offset: timedelta | None) -> datetime | None:
        return None if offset is None else self.clock() + offset

    def job(self, pick: int, *wanted: JobStatus) -> Answers | None:
        """One in a wanted status if there is one, else any."""
        stored = self.sides[0].root.tables.jobs
        jobs = self.known.get("jobs", [])
        fitting = [job for job in jobs if job[0].id in stored and stored[job[0].id].status in wanted] or jobs
        return fitting[-1 - pick % len(fitting)] if fitting else None

    def id_of(self, job: Answers | None, side: Side) -> int:
        return NO_JOB if job is None else self.of(job, side).id

    @rule(
        platform=platforms,
        content=contents,
        offset=st.none() | offsets,
        key=keys,
        gap=gaps,
        metadata=metadata,
        max_retries=retries,
        lateness=latenesses,
    )
    def schedule(
        self,
        platform: str,
        content: str,
        offset: timedelta | None,
        key: str | None,
        gap: timedelta | None,
        metadata: dict[str, Json] | None,
        max_retries: int | None,
        lateness: timedelta | None,
    ) -> None:
        answers = self.ask(
            lambda api, _: api.queue.schedule(
                platform,
                content,
                self.at(offset),
                idempotency_key=key,
                min_gap=gap,
                metadata=metadata,
                max_retries=max_retries,
                max_lateness=lateness,
            ),
            new=True,
        )
        self.remember("jobs", answers)

    @rule(drafts=st.lists(drafts, max_size=4))
    def schedule_many(self, drafts: list[dict[str, Any]]) -> None:
        batch = [
            NewJob(
                draft["platform"],
                draft["content"],
                self.at(draft["at"]),
                idempotency_key=draft["key"],
                min_gap=draft["gap"],
            )
            for draft in drafts
        ]
        self.remember("jobs", self.ask(lambda api, _: api.queue.schedule_many(batch), new=True))

    @rule(pick=picks, offset=offsets, content=st.none() | contents, metadata=metadata, gap=gaps)
    def reschedule(
        self,
        pick: int,
        offset: timedelta,
        content: str | None,
        metadata: dict[str, Json] | None,
        gap: timedelta | None,
    ) -> None:
        job = self.job(pick, *WAITING)
        self.ask(
            lambda api, side: api.queue.reschedule(
                self.id_of(job, side),
                self.at(offset),
                content=content,
                metadata=metadata,
                min_gap=gap,
            )
        )

    @rule(worker=workers, limit=limits, lease=leases, several=several)
    def claim(self, worker: str, limit: int, lease: timedelta, several: list[str] | None) -> None:
        answers = self.ask(
            lambda api, _: api.queue.claim_due(worker_id=worker, limit=limit, lease=lease, platforms=several)
        )
        self.remember("claims", answers)

    @precondition(lambda self: self.knows("claims"))
    @rule(pick=picks)
    def begin_publish(self, pick: int) -> None:
        claim = self.pick("claims", pick)
        self.ask(lambda api, side: api.queue.begin_publish(self.of(claim, side)))

    @precondition(lambda self: self.knows("claims"))
    @rule(chosen=st.lists(picks, max_size=4), lease=leases)
    def extend(self, chosen: list[int], lease: timedelta) -> None:
        claims = [self.pick("claims", pick) for pick in chosen]
        self.ask(lambda api, side: api.queue.extend([self.of(claim, side) for claim in claims], lease=lease))

    @precondition(lambda self: self.knows("claims"))
    @rule(pick=picks, ending=endings, offset=offsets)
    def end_claim(self, pick: int, ending: str, offset: timedelta) -> None:
        claim, at = self.pick("claims", pick), self.clock() + offset
        self.ask(lambda api, side: ended(api.queue, outcome(self.of(claim, side), ending, at)))

    @precondition(lambda self: self.knows("claims"))
    @rule(chosen=st.lists(st.tuples(picks, endings, offsets), max_size=5))
    def settle(self, chosen: list[tuple[int, str, timedelta]]) -> None:
        claims = [self.pick("claims", pick) for pick, _, _ in chosen]
        self.ask(
            lambda api, side: api.queue.settle(
                outcome(self.of(claim, side), ending, self.clock() + offset)
                for claim, (_, ending, offset) in zip(claims, chosen, strict=True)
            )
        )

    @rule(limit=limits)
    def rescue_expired(self, limit: int) -> None:
        self.ask(lambda api, _: api.queue.rescue_expired(limit=limit))

    @rule(pick=picks, offset=st.none() | offsets)
    def replay(self, pick: int, offset: timedelta | None) -> None:
        job = self.job(pick, JobStatus.DEAD_LETTER)
        self.ask(
            lambda api, side: api.queue.replay(self.id_of(job, side), scheduled_at=self.at(offset))
        )

    @rule(platform=st.none() | platforms, limit=st.none() | limits)
    def replay_all(self, platform: str | None, limit: int | None) -> None:
        self.ask(lambda api, _: api.queue.replay_all(platform=platform, limit=limit))

    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        job = self.job(pick)
        self.ask(lambda api, side: api.queue.remove(self.id_of(job, side)))

    @rule(
        status=st.none() | st.sampled_from(JobStatus),
        platform=platforms,
        offset=offsets,
        gap=st.sampled_from([NONE, TICK, GAP]),
        after=st.none() | picks,
        limit=limits,
    )
    def look(
        self,
        status: JobStatus | None,
        platform: str,
        offset: timedelta,
        gap: timedelta,
        after: int | None,
        limit: int,
    ) -> None:
        job = None if after is None else self.job(after)

        def answers(api: Any, side: Side) -> Any:
            start = None if job is None else self.of(job, side).id
            return (
                api.queue.list(status=status, after=start, limit=limit),
                api.queue.dead_letters(platform=platform, after=start, limit=limit),
                api.queue.find_conflict(platform, self.at(offset), gap),
            )

        self.ask(answers)

    @invariant()
    def queues_agree(self) -> None:
        self.ask(lambda api, _: (api.queue.list(limit=1000), api.queue.counts(), api.queue.next_due_at()))
