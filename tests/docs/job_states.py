"""Draws the life of a job in docs/reference/job-states.md, from what `transitions` allows.

`python -m tests.docs.job_states` writes the picture and the table into the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from assistly.storage import transitions
from assistly.storage.engine.values import JobDraft
from assistly.storage.records import Failed, Job, JobStatus, Outcome, Posted, Released, Snoozed, Unknown
from assistly.storage.retry import RetryPolicy
from assistly.storage.stores.settling import expire, settlement
from assistly.storage.validation import EMPTY_OBJECT

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "job-states.md"
BEGIN = "<!-- The picture is made by: python -m tests.docs.job_states -->\n"
END = "<!-- end of the picture -->\n"
BEGIN_TABLE = "<!-- The table is made by: python -m tests.docs.job_states -->\n"
END_TABLE = "<!-- end of the table -->\n"

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RETRY = RetryPolicy(max_retries=2, delay=MINUTE)

Move = Callable[[Job], Job | None]


def _ended(make: Callable[[Job], Outcome]) -> Move:
    return lambda job: transitions.settled(job, settlement(make(job), RETRY, NOON), now=NOON)


def _rescued(job: Job) -> Job | None:
    if job.lease_until is None:
        return None
    return transitions.settled(job, expire(job, RETRY, NOON), now=job.lease_until, expired_only=True)


MOVES: dict[str, list[Move]] = {
    "claim_due": [
        lambda job: transitions.claimed(job, worker_id="w", lease_until=NOON + MINUTE, now=job.due_at)
    ],
    "too late": [
        lambda job: transitions.dead_lettered_late(job, reason="missed: …", now=NOON + timedelta(days=1))
    ],
    "begin_publish": [lambda job: transitions.publish_begun(job, job.claim, now=NOON)],
    "extend": [lambda job: transitions.extended(job, job.claim, lease_until=NOON + 2 * MINUTE, now=NOON)],
    "checkpoint": [lambda job: transitions.checkpointed(job, job.claim, data={}, now=NOON)],
    "mark_posted": [_ended(lambda job: Posted(job))],
    "mark_failed": [
        _ended(lambda job: Failed(job, "busy")),
        _ended(lambda job: Failed(job, "refused", retryable=False)),
    ],
    "mark_unknown": [_ended(lambda job: Unknown(job, "no answer"))],
    "snooze": [_ended(lambda job: Snoozed(job, NOON + MINUTE))],
    "release": [_ended(lambda job: Released(job))],
    "lease ran out": [_rescued],
    "reschedule": [
        lambda job: transitions.rescheduled(job, NOON, content=None, metadata=None, now=NOON),
    ],
    "cancel": [lambda job: transitions.cancelled(job, now=NOON)],
    "replay": [lambda job: transitions.replayed(job, NOON, now=NOON)],
    "resolve as posted": [lambda job: transitions.resolved_posted(job, remote_id=None, now=NOON)],
    "resolve as not posted": [lambda job: transitions.resolved_unpublished(job, now=NOON)],
}
"""All that may happen to a job, by the name of the call or of the event."""


def state_of(job: Job) -> str:
    """Its status, and for two statuses whether publishing began."""
    if job.outcome_unknown:
        return "outcome_unknown"
    if job.status is JobStatus.PROCESSING and job.publish_started_at is not None:
        return "publishing"
    return str(job.status)


def ways() -> Iterator[tuple[str, str, str]]:
    """From, by, to: every move is tried on a job of every kind, beginning with a new one."""
    draft = JobDraft("x", "hello", EMPTY_OBJECT, NOON, None, RETRY.max_retries, timedelta(hours=1))
    first = transitions.new(draft, 1, NOON)
    found = {_kind(first): first}
    waiting = [first]
    while waiting:
        job = waiting.pop(0)
        for name, moves in MOVES.items():
            for move in moves:
                moved = move(job)
                if moved is None:
                    continue
                yield state_of(job), name, state_of(moved)
                if _kind(moved) not in found:
                    found[_kind(moved)] = moved
                    waiting.append(moved)


def _kind(job: Job) -> tuple[object, ...]:
    """What decides which moves are possible, and where they lead."""
    return state_of(job), min(job.retries, RETRY.max_retries), job.missed, job.next_retry_at is None


def _labels() -> dict[tuple[str, str], list[str]]:
    """From and to, and what leads there, in the order of MOVES."""
    names: dict[tuple[str, str], set[str]] = {}
    for before, name, after in ways():
        if before != after:
            names.setdefault((before, after), set()).add(name)
    order = list(MOVES)
    return {states: sorted(labels, key=order.index) for states, labels in names.items()}


def picture() -> str:
    """The states and the ways between them, as Mermaid."""
    lines = [
        "```mermaid",
        "stateDiagram-v2",
        '    state "processing" as processing',
        '    state "processing, publishing has begun" as publishing',
        '    state "dead_letter" as dead_letter',
        '    state "dead_letter, outcome unknown" as outcome_unknown',
        "    [*] --> scheduled: schedule",
    ]
    lines += [
        f"    {before} --> {after}: {', '.join(labels)}" for (before, after), labels in _labels().items()
    ]
    return "\n".join([*lines, "```", ""])


def table() -> str:
    """The same as a table in Markdown."""
    lines = ["| from | by | to |", "|---|---|---|", "| | `schedule` | `scheduled` |"]
    for (before, after), labels in _labels().items():
        by = ", ".join(f"`{label}`" if " " not in label else label for label in labels)
        lines.append(f"| {_shown(before)} | {by} | {_shown(after)} |")
    return "\n".join(["", *lines, "", ""])


def _shown(state: str) -> str:
    two = {
        "publishing": "`processing`, publishing has begun",
        "outcome_unknown": "`dead_letter`, outcome unknown",
    }
    return two.get(state, f"`{state}`")


def drawn(text: str) -> str:
    """The text of the page with the picture and the table as they should be."""
    for begin, made, end in ((BEGIN, picture(), END), (BEGIN_TABLE, table(), END_TABLE)):
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{made}{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
