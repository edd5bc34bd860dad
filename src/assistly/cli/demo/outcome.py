"""The outcome of a demo: compares the stored data with the calendar and with what the platforms published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from assistly.storage import Approval, Event, Job, JobStatus, Latency, Metrics, PruneReport, Session, Storage

from .calendar import CalendarPost
from .simulation import PublishedPost

T = TypeVar("T")


def pages(read: Callable[[Any], Sequence[T]]) -> Iterator[T]:
    """Yield all records. `read` is called with None, then with the last record of each page."""
    page = read(None)
    while page:
        yield from page
        page = read(page[-1])


@dataclass(frozen=True, slots=True)
class StoredData:
    """All records of a storage that the demo checks."""

    counts: dict[JobStatus, int]
    jobs: Sequence[Job]
    approvals: Sequence[Approval]
    events: Sequence[Event]
    sessions: Sequence[Session]
    metrics: Metrics

    @classmethod
    def read(cls, storage: Storage) -> StoredData:
        return cls(
            storage.queue.counts(),
            [*pages(lambda last: storage.queue.list(after=last, limit=1000))],
            [*pages(lambda last: storage.approvals.list(before=last, limit=1000))],
            [*pages(lambda last: storage.events.read_after(last or 0, limit=1000))],
            [*pages(lambda last: storage.sessions.list(after=last, limit=1000))],
            storage.metrics.read(),
        )


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """The outcome of a run.

    `latency` is that of the metrics before the run, `stored` the data after it, `pruned` the report of a
    prune a week later, and `kept` the data after that.
    """

    posts: Sequence[CalendarPost]
    publications: Sequence[PublishedPost]
    attacks: int
    latency: Latency
    stored: StoredData
    pruned: PruneReport
    kept: StoredData

    @property
    def commands(self) -> dict[str, CalendarPost]:
        return {post.command: post for post in self.posts}

    @property
    def checks(self) -> dict[str, list[str]]:
        """The problems found, by the name of the check."""
        repeats = len(self.posts) - len(self.commands)
        return {
            "no post doubled": [*self._doubled()],
            "none lost": [*self._lost()],
            "the storage agrees with the platforms": [*self._disagreements()],
            "repeated commands ran once": [*_expect(repeats, self._count("command_repeated"))],
            "every attack refused": [*_expect(self.attacks, self._count("webhook_refused"))],
            "retention deleted what was due": [*self._badly_pruned()],
        }

    @property
    def ok(self) -> bool:
        return not any(self.checks.values())

    def as_json(self) -> dict[str, Any]:
        """The object that `assistly demo --json` prints."""
        reasons = (job.dead_letter_reason for job in self.stored.jobs)
        counters, latency = self.stored.metrics.counters, self.stored.metrics.latency
        requests, total_ms = latency.count - self.latency.count, latency.total_ms - self.latency.total_ms
        return {
            "calendar": {
                "lines": len(self.posts),
                "commands": len(self.commands),
                "platforms": sorted({post.platform for post in self.posts}),
            },
            "jobs": {str(status): count for status, count in self.stored.counts.items()},
            "dead_letters": _counted(reason.partition(":")[0] for reason in reasons if reason),
            "approvals": _counted(approval.status for approval in self.stored.approvals),
            "sessions": len(self.stored.sessions),
            "events": _counted(event.event_type for event in self.stored.events),
            "metrics": {name: counters[name] for name in sorted(counters) if counters[name]}
            | {"meanLatencyMs": round(total_ms / requests if requests else 0.0, 3)},
            "publications": len(self.publications),
            "pruned": {kind: count for kind, count in asdict(self.pruned).items() if kind != "ran"},
            "checks": [{"name": n, "ok": not found, "problems": found} for n, found in self.checks.items()],
            "ok": self.ok,
        }

    def _doubled(self) -> Iterator[str]:
        for command, times in Counter(each.command for each in self.publications).items():
            if times > 1:
                yield f"{command} was published {times} times"

    def _lost(self) -> Iterator[str]:
        """Describe commands that did not end exactly once: posted, dead-lettered or rejected."""
        ends: dict[str, list[str]] = {command: [] for command in self.commands}
        for job in self.stored.jobs:
            ends.setdefault(job.idempotency_key or f"job {job.id}", []).append(job.status)
        for approval in self.stored.approvals:
            if approval.status != "approved":
                ends.setdefault(approval.id, []).append(approval.status)
        for command, found in ends.items():
            if command not in self.commands:
                yield f"{command} is not in the calendar"
            elif found not in (["posted"], ["dead_letter"], ["rejected"]):
                yield f"{command} ended as {' and '.join(found) or 'nothing at all'}"

    def _disagreements(self) -> Iterator[str]:
        remote_ids = {job.idempotency_key or "": job.remote_id for job in self.stored.jobs}
        stored = {
            PublishedPost(command, post.platform, post.content, remote_id)
            for command, post in self.commands.items()
            if (remote_id := remote_ids.get(command))
        }
        for command in sorted({each.command for each in stored ^ {*self.publications}}):
            yield f"{command} is not stored as it was published"

    def _badly_pruned(self) -> Iterator[str]:
        """Check the prune: all nonces (one for each line) are too old, and no job is."""
        yield from _expect(len(self.stored.approvals), self.pruned.approvals + len(self.kept.approvals))
        yield from _expect(len(self.posts), self.pruned.nonces)
        if self.kept.counts != self.stored.counts:
            yield "the jobs are not the same as before"

    def _count(self, event_type: str) -> int:
        return sum(event.event_type == event_type for event in self.stored.events)


def _expect(expected: int, found: int) -> Iterator[str]:
    if found != expected:
        yield f"expected {expected}, found {found}"


def _counted(names: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
