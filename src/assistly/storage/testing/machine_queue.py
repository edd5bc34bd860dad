"""The rules of the queue, for several workers.

They are few and each does a lot: Hypothesis leaves rules out at random, and a job's whole
life must fit into a few dozen steps.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from ..records import Failed, Job, JobStatus, NewJob, Outcome, Posted, Released, Snoozed, Unknown
from .fixtures import DAY, HOUR, LEASE, MINUTE, SECOND, TICK
from .machine_sides import NONE, RETRY, Answers, LockstepMachine, Question, Side, jitters, limits, picks

GAP = 10 * MINUTE
NO_JOB = 2**40
WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)

platforms = st.sampled_from(["x", "x", "mastodon", "\u00e9"])
contents = st.sampled_from(["", "hello", "h\u00e9llo \U0001f600"])
metadata = st.sampled_from([None, {}, {"n": 1}, {"n": 1.0}, {"n": True}])
gaps = st.sampled_from([None, NONE, GAP, GAP])
offsets = st.builds(
    lambda offset, jitter: offset + jitter,
    st.sampled_from([NONE, NONE, GAP, -GAP, RETRY, HOUR, -HOUR]),
    jitters,
)
leases = st.sampled_from([MINUTE, LEASE])
waits = st.sampled_from([NONE, SECOND])
pauses = st.tuples(st.just(False), waits) | st.tuples(st.just(True), jitters)
"""Whether the worker is slow, and how long it pauses in addition."""
workers = st.sampled_from(["ann", "bob"])
several = st.sampled_from([None, None, None, ["x"], ["mastodon", "\u00e9"]])
endings = st.tuples(
    st.sampled_from(
        ["posted", "failed", "failed", "fatal", "fatal", "retry at", "snoozed", "released", "unknown"]
    ),
    offsets,
)
drafts = st.fixed_dictionaries(
    {"platform": platforms, "content": contents, "offset": st.none() | offsets},
    optional={
        "idempotency_key": st.sampled_from(["k", "K"]),
        "min_gap": gaps,
        "metadata": metadata,
        "max_retries": st.sampled_from([None, 1, 3]),
        "max_lateness": st.sampled_from([NONE, MINUTE, DAY]),
    },
)
changes = st.fixed_dictionaries({}, optional={"content": contents, "metadata": metadata, "min_gap": gaps})
repairs = st.sampled_from(["rescue", "replay", "replay", "replay all", "reschedule", "reschedule", "remove"])


Ending = tuple[str, timedelta]


def outcome(job: Job, ending: Ending, now: datetime) -> Outcome:
    how, offset = ending
    match how:
        case "posted":
            return Posted(job, "remote-1")
        case "failed":
            return Failed(job, "busy")
        case "fatal":
            return Failed(job, "refused", retryable=False)
        case "retry at":
            return Failed(job, "busy", retry_at=now + offset)
        case "snoozed":
            return Snoozed(job, now + offset)
        case "unknown":
            return Unknown(job, "no answer")
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
        case Unknown(job, error):
            return queue.mark_unknown(job, error)


class QueueMachine(LockstepMachine):
    """`known["jobs"]` holds the jobs that were scheduled, `known["claims"]` all claims, stale ones too."""

    def at(self, offset: timedelta | None) -> datetime | None:
        return None if offset is None else self.clock() + offset

    def job(self, pick: int, *wanted: JobStatus) -> Answers | None:
        """One in a wanted status if there is one, else any."""
        stored = self.sides[0].root.state.tables.jobs
        jobs = self.known.get("jobs", [])
        fitting = [job for job in jobs if job[0].id in stored and stored[job[0].id].status in wanted] or jobs
        return fitting[-1 - pick % len(fitting)] if fitting else None

    def id_of(self, job: Answers | None, side: Side) -> int:
        return NO_JOB if job is None else self.of(job, side).id

    @initialize(drafts=st.lists(drafts, min_size=1, max_size=4), limit=limits, ending=st.none() | endings)
    def start(self, drafts: list[dict[str, Any]], limit: int, ending: Ending | None) -> None:
        self.schedule(drafts, together=False)
        self.work("ann", limit, MINUTE, several=None, pause=(False, NONE), publish=False, ending=ending)

    @rule(drafts=st.lists(drafts, min_size=1, max_size=3), together=st.booleans())
    def schedule(self, drafts: list[dict[str, Any]], together: bool) -> None:
        batch = []
        for draft in drafts:
            fields = dict(draft)
            batch.append(NewJob(scheduled_at=self.at(fields.pop("offset")), **fields))
        if together:
            self.remember("jobs", self.ask(lambda api, _: api.queue.schedule_many(batch), new=True))
            return
        for new in batch:
            self._schedule_one(new)

    def _schedule_one(self, new: NewJob) -> None:
        fields = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
        self.remember("jobs", self.ask(lambda api, _: api.queue.schedule(**fields), new=True))

    @rule(
        worker=workers,
        limit=limits,
        lease=leases,
        several=several,
        pause=pauses,
        publish=st.booleans(),
        ending=st.none() | endings,
    )
    def work(
        self,
        worker: str,
        limit: int,
        lease: timedelta,
        several: list[str] | None,
        pause: tuple[bool, timedelta],
        publish: bool,
        ending: Ending | None,
    ) -> None:
        """Claim; with the first of the jobs, go on to publish and to settle it, or stop half-way.

        A worker goes on after a pause; a slow one when its lease runs out, or right before or after that.
        """
        claims = self.ask(
            lambda api, _: api.queue.claim_due(worker_id=worker, limit=limit, lease=lease, platforms=several)
        )
        self.remember("claims", claims)
        if not claims[0]:
            return
        claim = [jobs[0] for jobs in claims]
        is_slow, step = pause
        self.clock.advance(step + lease if is_slow else step)
        if publish:
            self.ask(lambda api, side: api.queue.begin_publish(self.of(claim, side)))
        if ending is not None:
            self._end(claim, ending)

    @precondition(lambda self: self.knows("claims"))
    @rule(chosen=st.lists(picks, min_size=1, max_size=3), lease=leases, publish=st.booleans(), pause=waits)
    def hold_on(self, chosen: list[int], lease: timedelta, publish: bool, pause: timedelta) -> None:
        self.clock.advance(pause)
        claims = [self.pick("claims", pick) for pick in chosen]
        self.ask(lambda api, side: api.queue.extend([self.of(claim, side) for claim in claims], lease=lease))
        if publish:
            self.ask(lambda api, side: api.queue.begin_publish(self.of(claims[0], side)))

    @precondition(lambda self: self.knows("claims"))
    @rule(chosen=st.lists(st.tuples(picks, endings), min_size=1, max_size=4))
    def settle(self, chosen: list[tuple[int, Ending]]) -> None:
        claims = [(self.pick("claims", pick), ending) for pick, ending in chosen]
        if len(claims) == 1:
            self._end(*claims[0])
            return
        now = self.clock()
        self.ask(
            lambda api, side: api.queue.settle(
                outcome(self.of(claim, side), ending, now) for claim, ending in claims
            )
        )

    def _end(self, claim: Answers, ending: Ending) -> None:
        now = self.clock()
        self.ask(lambda api, side: ended(api.queue, outcome(self.of(claim, side), ending, now)))

    @rule(
        repair=repairs,
        pick=picks,
        offset=st.none() | offsets,
        limit=limits,
        platform=platforms,
        changes=changes,
    )
    def repair(
        self,
        repair: str,
        pick: int,
        offset: timedelta | None,
        limit: int,
        platform: str,
        changes: dict[str, Any],
    ) -> None:
        """What an operator does, mostly to a job that is fit for it."""
        fit = {"replay": [JobStatus.DEAD_LETTER], "reschedule": WAITING}.get(repair, ())
        job, at = self.job(pick, *fit), self.at(offset)
        ways: dict[str, Question] = {
            "rescue": lambda api, _: api.queue.rescue_expired(limit=limit),
            "replay": lambda api, side: api.queue.replay(self.id_of(job, side), scheduled_at=at),
            "replay all": lambda api, _: api.queue.replay_all(platform=platform, limit=limit),
            "reschedule": lambda api, side: api.queue.reschedule(
                self.id_of(job, side), at or self.clock(), **changes
            ),
            "remove": lambda api, side: api.queue.remove(self.id_of(job, side)),
        }
        self.ask(ways[repair])

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
