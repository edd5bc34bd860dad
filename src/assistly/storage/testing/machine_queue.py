"""The rules of the queue, for several workers.

They are few and each does a lot: Hypothesis leaves rules out at random, and a job's whole
life must fit into a few dozen steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from ..records import (
    TRACE_CONTEXT,
    Failed,
    Job,
    JobStatus,
    NewJob,
    Outcome,
    Posted,
    Released,
    Snoozed,
    Unknown,
)
from .fixtures import DAY, HOUR, LEASE, MINUTE, SECOND, TICK
from .machine_sides import (
    NONE,
    RETRY,
    Answers,
    LockstepMachine,
    Question,
    Side,
    jitters,
    limits,
    picks,
    values,
)
from .model_counts import is_unknown

GAP = 10 * MINUTE
NO_JOB = 2**40
WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)

platforms = st.sampled_from(["x", "x", "mastodon", "\u00e9"])
contents = st.sampled_from(["", "hello", "h\u00e9llo \U0001f600"])
metadata = st.sampled_from(
    [
        *(None, {}, {"n": 1}, {"n": 1.0}, {"n": True}),
        *({"n": 1, TRACE_CONTEXT: {"traceparent": number}} for number in "12"),
    ]
)
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
        [
            *("posted", "failed", "failed", "fatal", "fatal", "retry at", "snoozed", "released"),
            *("unknown", "unknown", "not missed"),
        ]
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
notes = st.none() | st.tuples(values)
"""A checkpoint to store, if any."""
cancels = st.sampled_from([None, None, None, None, "before", "after"])
"""Whether an operator cancels the job before or after the worker's begin_publish."""
repairs = st.sampled_from(
    [
        *("rescue", "replay", "replay", "replay all", "replay all", "reschedule", "reschedule", "remove"),
        *("cancel", "cancel"),
    ]
)
verdicts = st.sampled_from(
    [*((True, None), (True, "remote-2")) * 2, *((False, None),) * 3, (False, "remote-2")]
)
"""What somebody says about an unknown outcome: posted or not, and its remote id."""
returned = st.sampled_from(["jobs", "jobs", "ids", "none"])


FIT: dict[str, tuple[JobStatus, ...]] = {
    "replay": (JobStatus.DEAD_LETTER, JobStatus.CANCELLED),
    "reschedule": WAITING,
    "cancel": (*WAITING, JobStatus.PROCESSING),
}
"""The statuses of jobs that an operator's action is for."""

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
        case "not missed":
            return Failed(job, "missed: the platform says so", retryable=False)
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


def _counted(counts: Sequence[Any]) -> list[Any]:
    """Which posted jobs an engine counts, if it does not count all of them, is for it to choose."""
    posted: dict[datetime | None, int] = {}
    others: list[Any] = []
    for count in counts:
        if count.status == JobStatus.POSTED and not count.exact:
            start = getattr(count, "start", None)
            posted[start] = posted.get(start, 0) + count.count
        else:
            others.append(count)
    return [others, [*posted.items()]]


def _pages_of_two(queue: Any) -> Iterator[Any]:
    page = queue.upcoming(limit=2)
    while page:
        yield page
        page = queue.upcoming(after=page[-1], limit=2)


class QueueMachine(LockstepMachine):
    """`known["jobs"]` holds the jobs that were scheduled, `known["claims"]` all claims, stale ones too."""

    def at(self, offset: timedelta | None) -> datetime | None:
        return None if offset is None else self.clock() + offset

    def job(self, pick: int, *wanted: JobStatus) -> Answers | None:
        """One in a wanted status if there is one, else any."""
        return self._chosen(pick, lambda job: job.status in wanted)

    def _chosen(self, pick: int, fits: Callable[[Job], bool]) -> Answers | None:
        stored = self.sides[0].root.state.tables.jobs
        jobs = self.known.get("jobs", [])
        fitting = [job for job in jobs if job[0].id in stored and fits(stored[job[0].id])] or jobs
        return fitting[-1 - pick % len(fitting)] if fitting else None

    def id_of(self, job: Answers | None, side: Side) -> int:
        return NO_JOB if job is None else self.of(job, side).id

    @initialize(drafts=st.lists(drafts, min_size=1, max_size=4), limit=limits, ending=st.none() | endings)
    def start(self, drafts: list[dict[str, Any]], limit: int, ending: Ending | None) -> None:
        self.schedule(drafts, together=None)
        self.claim("ann", limit, MINUTE, None)
        if self.knows("claims") and ending is not None:
            self._end(self.pick("claims", 0), ending)

    @rule(drafts=st.lists(drafts, min_size=1, max_size=3), together=st.none() | returned)
    def schedule(self, drafts: list[dict[str, Any]], together: str | None) -> None:
        batch = []
        for draft in drafts:
            fields = dict(draft)
            batch.append(NewJob(scheduled_at=self.at(fields.pop("offset")), **fields))
        if together == "jobs":
            self.remember("jobs", self.ask(lambda api, _: api.queue.schedule_many(batch), new=True))
            return
        if together is not None:
            self._schedule_without_records(batch, together)
            return
        for new in batch:
            self._schedule_one(new)

    def _schedule_without_records(self, batch: list[NewJob], returning: str) -> None:
        """The sides learn each other's ids from a list of all jobs."""
        answers = [
            side.answer(lambda api, _: api.queue.schedule_many(batch, returning=returning))
            for side in self.sides
        ]
        known = {job[0].id for job in self.known.get("jobs", [])}
        stored = self.ask(lambda api, _: api.queue.list(limit=1000), new=True)
        for each in zip(*stored, strict=True):
            if each[0].id not in known:
                self.remember("jobs", [*each])
        self.ask(lambda _, side: self._numbers_of(answers[side.index], side), new=True)

    def _numbers_of(self, answer: Any, side: Side) -> Any:
        if isinstance(answer, list):
            return [side.number((Job, "", id)) for id in answer]
        return answer

    def _schedule_one(self, new: NewJob) -> None:
        fields = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
        self.remember("jobs", self.ask(lambda api, _: api.queue.schedule(**fields), new=True))

    def claim(self, worker: str, limit: int, lease: timedelta, several: list[str] | None) -> Answers | None:
        """Claim, and return the first of the jobs."""
        claims = self.ask(
            lambda api, _: api.queue.claim_due(worker_id=worker, limit=limit, lease=lease, platforms=several)
        )
        self.remember("claims", claims)
        return [jobs[0] for jobs in claims] if claims[0] else None

    @rule(
        worker=workers,
        limit=limits,
        lease=leases,
        several=several,
        pause=pauses,
        publish=st.booleans(),
        cancel=cancels,
        note=notes,
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
        cancel: str | None,
        note: tuple[Any] | None,
        ending: Ending | None,
    ) -> None:
        """Claim; with the first of the jobs, go on to publish and to settle it, or stop half-way.

        A worker goes on after a pause; a slow one when its lease runs out, or right before or after that. An
        operator may cancel the job under its hands.
        """
        claim = self.claim(worker, limit, lease, several)
        if claim is None:
            return
        is_slow, step = pause
        self.clock.advance(step + lease if is_slow else step)
        if cancel == "before":
            self._cancel(claim)
        if publish:
            self.ask(lambda api, side: api.queue.begin_publish(self.of(claim, side)))
        if cancel == "after":
            self._cancel(claim)
        self._note(claim, note)
        if ending is not None:
            self._end(claim, ending)

    def _cancel(self, job: Answers | None) -> None:
        self.ask(lambda api, side: api.queue.cancel(self.id_of(job, side)))

    def _note(self, claim: Answers, note: tuple[Any] | None) -> None:
        """Store a checkpoint, if there is one: the claim may be lost, or its publishing not have begun."""
        if note is not None:
            self.ask(lambda api, side: api.queue.checkpoint(self.of(claim, side), note[0]))

    @precondition(lambda self: self.knows("claims"))
    @rule(
        chosen=st.lists(picks, min_size=1, max_size=3),
        lease=leases,
        publish=st.booleans(),
        note=notes,
        pause=waits,
    )
    def hold_on(
        self, chosen: list[int], lease: timedelta, publish: bool, note: tuple[Any] | None, pause: timedelta
    ) -> None:
        self.clock.advance(pause)
        claims = [self.pick("claims", pick) for pick in chosen]
        self.ask(lambda api, side: api.queue.extend([self.of(claim, side) for claim in claims], lease=lease))
        if publish:
            self.ask(lambda api, side: api.queue.begin_publish_many([self.of(one, side) for one in claims]))
        self._note(claims[0], note)

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
        platform=st.none() | platforms,
        flags=st.tuples(st.booleans(), st.booleans()),
        changes=changes,
    )
    def repair(
        self,
        repair: str,
        pick: int,
        offset: timedelta | None,
        limit: int,
        platform: str | None,
        flags: tuple[bool, bool],
        changes: dict[str, Any],
    ) -> None:
        """What an operator does, mostly to a job that is fit for it."""
        fit = FIT.get(repair, ())
        unknown, missed = flags
        job, at = self.job(pick, *fit), self.at(offset)
        ways: dict[str, Question] = {
            "rescue": lambda api, _: api.queue.rescue_expired(limit=limit),
            "replay": lambda api, side: api.queue.replay(self.id_of(job, side), scheduled_at=at),
            "replay all": lambda api, _: api.queue.replay_all(
                platform=platform, limit=limit, unknown=unknown, missed=missed
            ),
            "reschedule": lambda api, side: api.queue.reschedule(
                self.id_of(job, side), at or self.clock(), **changes
            ),
            "remove": lambda api, side: api.queue.remove(self.id_of(job, side)),
            "cancel": lambda api, side: api.queue.cancel(self.id_of(job, side)),
        }
        self.ask(ways[repair])

    @rule(pick=picks, said=st.lists(verdicts, min_size=0, max_size=3), note=notes, lost=st.booleans())
    def resolve(
        self, pick: int, said: list[tuple[bool, str | None]], note: tuple[Any] | None, lost: bool
    ) -> None:
        """Several people answer for one job, often one whose worker has just lost sight of it.

        That worker, or another one, stores a checkpoint afterwards.
        """
        claim = self.claim("ann", 1, LEASE, None) if lost else None
        if claim is not None:
            self.ask(lambda api, side: api.queue.begin_publish(self.of(claim, side)))
            self._note(claim, note)
            self._end(claim, ("unknown", NONE))
        job = self._chosen(pick, is_unknown)
        for posted, remote_id in said:
            self._resolve(job, remote_id, posted=posted)
        if self.knows("claims"):
            self._note(self.pick("claims", pick), note)

    def _resolve(self, job: Answers | None, remote_id: str | None, *, posted: bool) -> None:
        self.ask(
            lambda api, side: api.queue.resolve(self.id_of(job, side), posted=posted, remote_id=remote_id)
        )

    @rule(
        status=st.none() | st.sampled_from(JobStatus),
        platform=platforms,
        offset=offsets,
        gap=st.sampled_from([NONE, TICK, GAP]),
        until=st.none() | offsets,
        after=st.none() | picks,
        limit=limits,
    )
    def look(
        self,
        status: JobStatus | None,
        platform: str,
        offset: timedelta,
        until: timedelta | None,
        gap: timedelta,
        after: int | None,
        limit: int,
    ) -> None:
        job = None if after is None else self.job(after)

        def answers(api: Any, side: Side) -> Any:
            start = None if job is None else self.of(job, side).id
            last = None if job is None else self.of(job, side)
            return (
                [*_pages_of_two(api.queue)],
                api.queue.upcoming(until=self.at(until), platform=platform, after=last, limit=limit),
                api.queue.list(status=status, after=start, limit=limit),
                api.queue.dead_letters(platform=platform, after=start, limit=limit),
                api.queue.find_conflict(platform, self.at(offset), gap),
                _counted(api.queue.depths(limit=limit)),
                _counted(api.queue.timeline(self._edges(), limit=limit)),
            )

        self.ask(answers)

    def _edges(self) -> list[datetime]:
        return [self.clock() + offset for offset in (-DAY, -RETRY, NONE, TICK, RETRY, DAY)]

    @invariant()
    def queues_agree(self) -> None:
        self.ask(lambda api, _: (api.queue.list(limit=1000), api.queue.counts(), api.queue.next_due_at()))
