"""What the storage says at the end, held against the publisher's own record and the calendar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assistly.storage import Approval, Event, Job, JobStatus, Latency, Metrics, PruneReport, Storage

from .calendar import Post
from .world import Publication


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Outside:
    """What others know, without the storage."""

    posts: Sequence[Post]
    publications: Sequence[Publication]
    attacks: int

    @property
    def commands(self) -> dict[str, Post]:
        return {post.command: post for post in self.posts}


@dataclass(frozen=True, slots=True)
class Inside:
    """What the storage holds."""

    jobs: Sequence[Job]
    counts: dict[JobStatus, int]
    approvals: Sequence[Approval]
    events: Sequence[Event]
    metrics: Metrics
    mean_latency_ms: float
    sessions: int

    @classmethod
    def read(cls, storage: Storage, before: Latency) -> Inside:
        """`before`: the latency at the start, since that cannot be emptied."""
        metrics = storage.metrics.read()
        requests = metrics.latency.count - before.count
        return cls(
            jobs=[*_jobs(storage)],
            counts=storage.queue.counts(),
            approvals=[*_approvals(storage)],
            events=[*_events(storage)],
            metrics=metrics,
            mean_latency_ms=(metrics.latency.total_ms - before.total_ms) / requests if requests else 0.0,
            sessions=_sessions(storage),
        )

    @property
    def event_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(event.event_type for event in self.events).items()))

    @property
    def dead_letters(self) -> dict[str, int]:
        """By the beginning of the reason."""
        reasons = [job.dead_letter_reason or "" for job in self.jobs if job.status is JobStatus.DEAD_LETTER]
        return dict(sorted(Counter(reason.partition(":")[0] for reason in reasons).items()))


@dataclass(frozen=True, slots=True)
class Summary:
    outside: Outside
    inside: Inside
    pruned: PruneReport
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        counters = {name: value for name, value in sorted(self.inside.metrics.counters.items()) if value}
        pruned = {kind: count for kind, count in asdict(self.pruned).items() if kind != "ran"}
        return {
            "calendar": {
                "lines": len(self.outside.posts),
                "commands": len(self.outside.commands),
                "platforms": sorted({post.platform for post in self.outside.posts}),
            },
            "jobs": {str(status): count for status, count in self.inside.counts.items()},
            "dead_letters": self.inside.dead_letters,
            "approvals": dict(sorted(Counter(a.status for a in self.inside.approvals).items())),
            "sessions": self.inside.sessions,
            "events": self.inside.event_counts,
            "metrics": counters | {"meanLatencyMs": round(self.inside.mean_latency_ms, 3)},
            "publications": len(self.outside.publications),
            "pruned": pruned,
            "checks": [{"name": c.name, "ok": c.ok, "problems": list(c.problems)} for c in self.checks],
            "ok": self.ok,
        }


def run_checks(outside: Outside, inside: Inside) -> list[Check]:
    return [
        Check("no post doubled", tuple(_doubled(outside))),
        Check("none lost", tuple(_lost(outside, inside))),
        Check("the storage agrees with the platforms", tuple(_disagreements(outside, inside))),
        Check(
            "repeated commands ran once", tuple(_wrong_count(inside, "command_repeated", _repeats(outside)))
        ),
        Check("every attack refused", tuple(_wrong_count(inside, "webhook_refused", outside.attacks))),
    ]


def check_retention(outside: Outside, inside: Inside, storage: Storage, pruned: PruneReport) -> Check:
    """By then every nonce is a day old, and one for each line; no job is ever too old here."""
    problems = []
    left = len([*_approvals(storage)])
    if pruned.approvals + left != len(inside.approvals):
        problems.append(
            f"of {len(inside.approvals)} approvals {pruned.approvals} were deleted and {left} are left"
        )
    if pruned.nonces != len(outside.posts):
        problems.append(f"{pruned.nonces} nonces were deleted, where {len(outside.posts)} are right")
    if storage.queue.counts() != inside.counts:
        problems.append("the jobs are not the same as before")
    return Check("retention took what was due", tuple(problems))


def _doubled(outside: Outside) -> Iterator[str]:
    for command, times in Counter(entry.command for entry in outside.publications).items():
        if times > 1:
            yield f"{command} was published {times} times"


def _lost(outside: Outside, inside: Inside) -> Iterator[str]:
    """Each command has come to one end: posted, dead, rejected, or found published by a person."""
    ends: dict[str, list[str]] = {command: [] for command in outside.commands}
    for job in inside.jobs:
        ends.setdefault(job.idempotency_key or f"job {job.id}", []).append(job.status)
    for approval in inside.approvals:
        if approval.status != "approved":
            ends.setdefault(approval.id, []).append(approval.status)
    for command in _confirmed(inside):
        ends.setdefault(command, []).append("confirmed")
    for command, found in ends.items():
        if command not in outside.commands:
            yield f"{command} is not in the calendar"
        elif found not in (["posted"], ["dead_letter"], ["rejected"], ["confirmed"]):
            yield f"{command} ended as {' and '.join(found) or 'nothing at all'}"


def _disagreements(outside: Outside, inside: Inside) -> Iterator[str]:
    published = {entry.command: entry for entry in outside.publications}
    expected = _confirmed(inside)
    for job in inside.jobs:
        if job.status is JobStatus.POSTED:
            expected[job.idempotency_key or f"job {job.id}"] = job.remote_id
    for command in sorted(published.keys() ^ expected.keys()):
        where = (
            "published, and not so stored" if command in published else "stored as posted, and not published"
        )
        yield f"{command} is {where}"
    for command in sorted(published.keys() & expected.keys()):
        entry, post = published[command], outside.commands.get(command)
        if entry.remote_id != expected[command]:
            yield f"{command} has another remote id than the platform's"
        if post is not None and (entry.platform, entry.content) != (post.platform, post.content):
            yield f"{command} was published with another content"


def _wrong_count(inside: Inside, event_type: str, expected: int) -> Iterator[str]:
    found = inside.event_counts.get(event_type, 0)
    if found != expected:
        yield f"{found} events {event_type}, where {expected} are right"


def _repeats(outside: Outside) -> int:
    return len(outside.posts) - len(outside.commands)


def _confirmed(inside: Inside) -> dict[str, str | None]:
    return {
        event.payload["command"]: event.payload["remote_id"]
        for event in inside.events
        if event.event_type == "job_confirmed"
    }


def _jobs(storage: Storage) -> Iterator[Job]:
    page = storage.queue.list(limit=1000)
    while page:
        yield from page
        page = storage.queue.list(after=page[-1], limit=1000)


def _approvals(storage: Storage) -> Iterator[Approval]:
    page = storage.approvals.list(limit=1000)
    while page:
        yield from page
        page = storage.approvals.list(before=page[-1], limit=1000)


def _events(storage: Storage) -> Iterator[Event]:
    page = storage.events.read_after(0, limit=1000)
    while page:
        yield from page
        page = storage.events.read_after(page[-1], limit=1000)


def _sessions(storage: Storage) -> int:
    count = 0
    page = storage.sessions.list(limit=1000)
    while page:
        count += len(page)
        page = storage.sessions.list(after=page[-1], limit=1000)
    return count
