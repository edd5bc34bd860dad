"""The checker of histories accepts what happened, and rejects what cannot have happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistly.storage import MemoryBackend, Storage
from assistly.storage.errors import ClaimLost, StatusConflict, StorageError
from assistly.storage.records import ClaimState, Job, JobStatus, NewJob, Posted, Settled
from assistly.storage.testing.history import UNANSWERED, RecordedCall, Recorder, recorded
from assistly.storage.testing.history_checks import ImpossibleHistory, check

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LEASE = timedelta(minutes=5)
DAY = timedelta(days=1)

History = list[RecordedCall]


def made(work: Callable[[Storage], object]) -> History:
    recorder = Recorder("test")
    with Storage(MemoryBackend(), clock=lambda: NOW, auto_prune=False) as storage:
        work(recorded(storage, recorder))
    return recorder.calls


def everything(storage: Storage) -> None:
    storage.nonces.register("n")
    storage.nonces.register("n")
    storage.approvals.add("a", {"n": 1})
    storage.approvals.decide("a", "yes")
    with pytest.raises(StorageError):
        storage.approvals.decide("a", "no")
    storage.sessions.put("u", {"n": 0})
    storage.sessions.update("u", lambda data: {"n": data["n"] + 1})
    storage.sessions.update("u", lambda data: {"n": data["n"] + 1})
    claim = storage.idempotency.claim("k")
    storage.idempotency.claim("k")
    storage.idempotency.complete(claim, "done")
    storage.idempotency.run_once("once", lambda: "first")
    storage.idempotency.run_once("once", lambda: "second")
    lock = storage.lock.acquire("ann", ttl=LEASE)
    storage.lock.acquire("bob", ttl=LEASE)
    assert lock is not None
    storage.lock.renew(lock, ttl=LEASE)
    storage.lock.release(lock)
    storage.lock.acquire("bob", ttl=LEASE)
    jobs(storage)
    decisions(storage)
    for number in range(3):
        storage.events.append("type", number)
    storage.events.read_after(0, limit=2)


def jobs(storage: Storage) -> None:
    queue = storage.queue
    queue.schedule("x", "hello", idempotency_key="key")
    queue.schedule("x", "hello", idempotency_key="key")
    (job,) = queue.claim_due(worker_id="ann", lease=LEASE)
    queue.release(job)
    (job,) = queue.claim_due(worker_id="bob", lease=LEASE)
    queue.extend([job], lease=LEASE)
    queue.begin_publish(job)
    queue.settle([Posted(job, "remote")])
    with pytest.raises(ClaimLost):
        queue.mark_posted(job)
    second = queue.schedule("x", "again")
    (job,) = queue.claim_due(worker_id="ann", lease=LEASE)
    queue.begin_publish(job)
    queue.rescue_expired(now=NOW + LEASE)
    queue.replay(second.id)
    queue.list()
    queue.reschedule(second.id, NOW + LEASE)
    queue.remove(second.id)
    queue.get(second.id)


def decisions(storage: Storage) -> None:
    queue = storage.queue
    posted = unknown_outcome(storage)
    queue.replay_all()
    queue.resolve(posted.id, posted=True, remote_id="remote")
    with pytest.raises(StatusConflict):
        queue.resolve(posted.id, posted=False)
    again = unknown_outcome(storage)
    queue.resolve(again.id, posted=False)
    with pytest.raises(StatusConflict):
        queue.resolve(again.id, posted=True)
    queue.replay_all(unknown=True)
    (job,) = queue.claim_due(worker_id="bob", lease=LEASE)
    queue.cancel(job.id)
    with pytest.raises(ClaimLost):
        queue.begin_publish(job)
    with pytest.raises(ClaimLost):
        queue.checkpoint(job, {"step": 2})
    queue.replay(job.id)
    (job,) = queue.claim_due(worker_id="bob", lease=LEASE)
    with pytest.raises(StatusConflict):
        queue.checkpoint(job, {"step": 1})
    queue.begin_publish(job)
    with pytest.raises(StatusConflict):
        queue.cancel(job.id)
    queue.mark_unknown(job, "no answer")
    queue.replay_all(unknown=True)
    queue.schedule_many([NewJob("x", "next week", NOW + 7 * DAY)], returning="ids")
    queue.upcoming()


def unknown_outcome(storage: Storage) -> Job:
    queue = storage.queue
    queue.schedule("x", "is it there?")
    (job,) = queue.claim_due(worker_id="ann", lease=LEASE)
    queue.begin_publish(job)
    queue.checkpoint(job, {"step": 1})
    return queue.mark_unknown(job, "no answer")


def changed(
    history: History, method: str, change: Callable[[RecordedCall], RecordedCall], place: int = 0
) -> History:
    """The history with one call of this method changed."""
    places = [number for number, call in enumerate(history) if call.method == method]
    number = places[place]
    return [*history[:number], change(history[number]), *history[number + 1 :]]


def answered(answer: object) -> Callable[[RecordedCall], RecordedCall]:
    return lambda call: replace(call, answer=answer)


def job_with(**fields: object) -> Callable[[RecordedCall], RecordedCall]:
    def change(call: RecordedCall) -> RecordedCall:
        if isinstance(call.answer, Job):
            return replace(call, answer=replace(call.answer, **fields))  # type: ignore[arg-type]
        return replace(call, answer=[replace(job, **fields) for job in call.answer])

    return change


def record_with(**fields: object) -> Callable[[RecordedCall], RecordedCall]:
    return lambda call: replace(call, answer=replace(call.answer, **fields))


def lost(call: RecordedCall) -> RecordedCall:
    return replace(call, answer=Settled([], [job.id for job in call.answer.jobs]))


def allowed(call: RecordedCall) -> RecordedCall:
    """Instead of an error, the call has answered with the job."""
    job = call.answer.args[1] if isinstance(call.answer, StatusConflict) else call.args[0]
    assert isinstance(call.answer, StorageError)
    return replace(call, answer=job)


def refused(call: RecordedCall) -> RecordedCall:
    """Instead of the job, the call has answered with an error."""
    return replace(call, answer=StatusConflict("refused", call.answer))


LIES = {
    "a nonce is new twice": ("nonces.register", answered(True), 1),
    "a nonce was seen before": ("nonces.register", answered(False), 0),
    "an approval is decided twice": ("approvals.decide", record_with(status="no"), 0),
    "an update was lost": ("sessions.update", record_with(version=2), 1),
    "an update saw old data": (
        "sessions.update",
        lambda call: replace(call, args=("u", {"before": {"n": 0}, "after": {"n": 1}})),
        1,
    ),
    "two hold a key": ("idempotency.claim", record_with(state=ClaimState.ACQUIRED), 1),
    "a key was lost": ("idempotency.complete", answered(ClaimLost("lost")), 0),
    "another result": ("idempotency.run_once", answered("second"), 1),
    "two hold a lock": ("lock.acquire", record_with(owner_id="bob"), 0),
    "a fence is used again": ("lock.acquire", record_with(fence=1), 2),
    "a lock was lost": ("lock.release", answered(False), 0),
    "a key has two jobs": ("queue.schedule", job_with(claim=1), 1),
    "a claim does not grow": ("queue.claim_due", job_with(claim=1), 1),
    "a claim goes to nobody": ("queue.claim_due", answered([]), 1),
    "a lease is as before": ("queue.extend", answered([]), 0),
    "publishing has not begun": ("queue.begin_publish", job_with(publish_started_at=None), 0),
    "a claim was lost": ("queue.settle", lost, 0),
    "a rescue that retries": (
        "queue.rescue_expired",
        job_with(status=JobStatus.RETRYING, publish_started_at=None),
        0,
    ),
    "a replay in vain": ("queue.replay", answered(None), 0),
    "two resolve a job": ("queue.resolve", allowed, 1),
    "resolved, and the outcome was known": ("queue.resolve", refused, 0),
    "a checkpoint is lost when a job was not posted": ("queue.resolve", job_with(checkpoint=None), 2),
    "a checkpoint of a cancelled job": ("queue.checkpoint", allowed, 2),
    "a checkpoint before publishing": ("queue.checkpoint", answered(ClaimLost("lost")), 3),
    "another checkpoint": ("queue.checkpoint", job_with(checkpoint={"step": 7}), 0),
    "cancelled in vain": ("queue.cancel", refused, 0),
    "cancelled after publishing began": ("queue.cancel", allowed, 1),
    "begun after it was cancelled": (
        "queue.begin_publish",
        allowed,
        4,
    ),
    "an upcoming job of another kind": ("queue.upcoming", job_with(content="other"), 0),
    "removed by another": ("queue.remove", answered(False), 0),
    "a page in a wrong order": ("events.read_after", lambda call: replace(call, answer=call.answer[::-1]), 0),
    "a page without an event": ("events.read_after", lambda call: replace(call, answer=call.answer[1:]), 0),
}


def test_what_happened_is_accepted() -> None:
    check(made(everything))


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_have_happened_is_rejected(lie: str) -> None:
    method, change, place = LIES[lie]
    with pytest.raises(ImpossibleHistory) as raised:
        check(changed(made(everything), method, change, place))
    path = Path(str(raised.value).rpartition(" ")[2])
    assert method in path.read_text()
    path.unlink()


def test_calls_at_the_same_time_may_take_effect_in_any_order() -> None:
    history = made(lambda storage: [storage.nonces.register("n") for _ in "ab"])
    first, second = history
    check(
        [
            replace(first, answer=False, returned=second.returned),
            replace(second, invoked=first.invoked, answer=True),
        ]
    )
    with pytest.raises(ImpossibleHistory):
        check([replace(first, answer=False), replace(second, answer=True)])


def test_a_call_without_an_answer_may_have_taken_effect_or_not() -> None:
    history = made(lambda storage: [storage.nonces.register("n") for _ in "ab"])
    first, second = history
    unanswered = replace(first, answer=None, returned=UNANSWERED)
    check([unanswered, replace(second, answer=False)])
    check([unanswered, replace(second, answer=True)])
    with pytest.raises(ImpossibleHistory):
        check([replace(second, answer=False)])


def test_a_worker_that_is_killed() -> None:
    """Its claim was never answered, and its lease ran out: the next claim is the second one."""
    recorder = Recorder("test")
    moments = [NOW]
    with Storage(MemoryBackend(), clock=lambda: moments[0], auto_prune=False) as storage:
        queue = recorded(storage, recorder).queue
        queue.schedule("x", "hello")
        queue.claim_due(worker_id="killed", lease=LEASE)
        moments[0] = NOW + 2 * LEASE
        queue.rescue_expired()
        queue.claim_due(worker_id="bob", lease=LEASE, now=moments[0] + LEASE)
    scheduled, killed, _, claimed = recorder.calls
    unanswered = replace(killed, answer=None, returned=UNANSWERED)
    check([scheduled, unanswered, claimed], loose=True)
    with pytest.raises(ImpossibleHistory):
        check([scheduled, claimed], loose=True)
    with pytest.raises(ImpossibleHistory):
        check([scheduled, killed, job_with(claim=1)(claimed)], loose=True)
