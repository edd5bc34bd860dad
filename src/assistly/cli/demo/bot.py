"""The application: a webhook handler, decisions on approvals, and a review of dead letters."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial

from assistly.storage import Approval, Job, ScheduleConflict, StatusConflict, Storage

from .calendar import CalendarPost
from .outcome import pages
from .simulation import FlakyPlatforms, SimulatedClock, WebhookRequest

_GAP = timedelta(minutes=10)
_TOLERANCE = timedelta(minutes=5)
_REJECT_EVERY = 4
_LATE_EVERY = 5
_EARLY = timedelta(hours=2)
_LATE = timedelta(hours=3)


def handle_webhook(storage: Storage, clock: SimulatedClock, request: WebhookRequest) -> None:
    """Refuse forged and replayed requests; run the command of any other once."""
    storage.metrics.increment("requestCount")
    storage.metrics.observe_latency(request.handled_in_ms)
    refusal = _refusal(storage, clock, request)
    if refusal:
        storage.metrics.increment("errorCount")
        storage.events.append("webhook_refused", {"nonce": request.nonce, "reason": refusal})
        return
    command = request.post.command
    result = storage.idempotency.run_once(
        command, lambda: _run(storage, request), fingerprint=request.post.fingerprint
    )
    if result["nonce"] != request.nonce:
        storage.events.append("command_repeated", {"command": command, "answer": result["state"]})


def _refusal(storage: Storage, clock: SimulatedClock, request: WebhookRequest) -> str | None:
    """Why the request is refused. The signature comes first: a forger must not use up others' nonces."""
    if not hmac.compare_digest(request.signature, request.sign()):
        return "wrong signature"
    if abs(clock() - request.sent_at) > _TOLERANCE:
        return "too old"
    return None if storage.nonces.register(request.nonce, request.sent_at) else "nonce used before"


def _run(storage: Storage, request: WebhookRequest) -> dict[str, str]:
    post = request.post
    with storage.transaction() as tx:
        tx.metrics.increment("commandCount")
        tx.sessions.update(post.user, lambda old: {"commands": old["commands"] + 1}, default={"commands": 0})
        if post.approval:
            tx.approvals.add(post.command, post.model_dump(mode="json"))
            tx.events.append("approval_asked", {"command": post.command})
            return {"state": "pending", "nonce": request.nonce}
        schedule_post(tx, post)
        return {"state": "scheduled", "nonce": request.nonce}


def schedule_post(tx: Storage, post: CalendarPost) -> None:
    """Schedule a post at its time, or in the next free slot of the platform."""
    at = post.at
    while True:
        try:
            job = tx.queue.schedule(
                post.platform,
                post.content,
                at,
                idempotency_key=post.command,
                min_gap=_GAP,
                metadata={"user": post.user, "tags": list(post.tags)},
                max_lateness=post.max_lateness,
            )
            break
        except ScheduleConflict as conflict:
            at = conflict.job.scheduled_at + _GAP
    moved = (at - post.at) // timedelta(minutes=1)
    tx.events.append("job_scheduled", {"command": post.command, "job": job.id, "moved_minutes": moved})
    if at != post.at:
        tx.events.append("slot_taken", {"command": post.command, "moved_minutes": moved})


def planned_decisions(storage: Storage) -> Iterator[tuple[datetime, str, str]]:
    """Yield the time, approval id and status of each decision.

    Every fifth decision is too late, and every fourth post is rejected.
    """
    pending = pages(lambda last: storage.approvals.list(status="pending", before=last, limit=1000))
    posts = sorted(map(_post, pending), key=lambda post: (post.at, post.command))
    for number, post in enumerate(posts, start=1):
        at = post.at - _EARLY if number % _LATE_EVERY else post.at + _LATE
        yield at, post.command, "approved" if number % _REJECT_EVERY else "rejected"


def decide(storage: Storage, id: str, status: str, by: str = "carla") -> None:
    """Decide on an approval, and schedule the post if it is approved, in one transaction."""
    try:
        with storage.transaction() as tx:
            approval = tx.approvals.decide(id, status, patch={"by": by})
            if status == "approved":
                schedule_post(tx, _post(approval))
            tx.events.append(f"approval_{status}", {"command": id})
    except StatusConflict:
        storage.events.append("approval_decided_before", {"command": id})


def decide_at_once(storage: Storage, id: str, status: str) -> None:
    """Let two reviewers decide at the same time, in two threads. One of them is too late."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(decide, storage, id, status), ("ana", "ben")))


def _post(approval: Approval) -> CalendarPost:
    fields = {name: value for name, value in approval.payload.items() if name != "by"}
    return CalendarPost.model_validate(fields, strict=False)


def review_dead_letters(storage: Storage, platforms: FlakyPlatforms) -> int:
    """Repair the platforms, then resolve or replay dead letters, except those rejected or missed.

    Returns how many were resolved or replayed.
    """
    platforms.repair()
    remote_ids = {publication.command: publication.remote_id for publication in platforms.publications}
    dead = pages(lambda last: storage.queue.dead_letters(after=last, limit=1000))
    return sum(_review(storage, job, remote_ids.get(job.idempotency_key or "")) for job in dead)


def _review(storage: Storage, job: Job, remote_id: str | None) -> bool:
    if job.missed or (job.dead_letter_reason or "").startswith("422: "):
        return False
    payload = {"command": job.idempotency_key, "job": job.id}
    with storage.transaction() as tx:
        if job.outcome_unknown:
            tx.queue.resolve(job.id, posted=remote_id is not None, remote_id=remote_id)
        else:
            tx.queue.replay(job.id)
        if remote_id is not None:
            tx.events.append("job_confirmed", payload | {"remote_id": remote_id})
        else:
            tx.events.append("job_replayed", payload)
    return True
