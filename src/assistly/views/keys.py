"""One idempotency key: what is stored under it, and the job that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from assistly.storage import Job, Storage

State = Literal["completed", "in_progress", "lease_over", "unknown"]


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is stored under a key.

    `state` is that of the command: `completed` with the result `value`, stored at `saved_at`; `in_progress`
    until `lease_until`; `lease_over` if it was not completed by then, so that the next caller runs it again;
    `unknown` if none is stored. `job` is the job with this key, which is independent of the command.
    """

    key: str
    state: State
    value: Any
    saved_at: datetime | None
    fingerprint: str | None
    lease_until: datetime | None
    job: Job | None

    @property
    def exists(self) -> bool:
        """Whether a command or a job has the key."""
        return self.state != "unknown" or self.job is not None


def key_state(storage: Storage, key: str, *, now: datetime | None = None) -> KeyState:
    """Read what is stored under a key. `now` is the current time (default: that of this machine)."""
    at = now or datetime.now(UTC)
    claim, record = storage.idempotency.peek(key), storage.idempotency.get(key)
    job = storage.queue.find_by_key(key)
    if record is not None:
        return KeyState(key, "completed", record.value, record.saved_at, record.fingerprint, None, job)
    if claim is None or claim.lease_until is None:
        return KeyState(key, "unknown", None, None, None, None, job)
    state: State = "in_progress" if claim.lease_until > at else "lease_over"
    return KeyState(key, state, None, None, claim.fingerprint, claim.lease_until, job)


def holder(job: Job) -> str:
    """A short description of the job that has a key: job 7 on x (scheduled)."""
    return f"job {job.id} on {job.platform} ({job.status})"
