"""The bot's front desk: webhooks come in, and become scheduled jobs or approvals."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from assistly.storage import Json, ScheduleConflict, Storage

from .calendar import Post
from .world import Request, SimulatedClock

GAP = timedelta(minutes=10)
_FRESH = timedelta(minutes=5)


class Desk:
    def __init__(self, storage: Storage, clock: SimulatedClock) -> None:
        self._storage = storage
        self._clock = clock

    def receive(self, request: Request) -> str:
        metrics = self._storage.metrics
        metrics.increment("requestCount")
        metrics.observe_latency(request.handled_in_ms)
        refusal = self._refusal(request)
        if refusal:
            metrics.increment("errorCount")
            self._storage.events.append("webhook_refused", {"nonce": request.nonce, "reason": refusal})
            return refusal
        post = request.post
        result = self._storage.idempotency.run_once(
            post.command, lambda: self._execute(request), fingerprint=post.fingerprint
        )
        if result["nonce"] != request.nonce:
            self._storage.events.append(
                "command_repeated", {"command": post.command, "answer": result["state"]}
            )
        state: str = result["state"]
        return state

    def _refusal(self, request: Request) -> str | None:
        """The signature comes first, so that a forger cannot use up the nonces of others."""
        if not request.is_genuine():
            return "wrong signature"
        if abs(self._clock() - request.sent_at) > _FRESH:
            return "too old"
        if not self._storage.nonces.register(request.nonce, request.sent_at):
            return "nonce used before"
        return None

    def _execute(self, request: Request) -> Json:
        post = request.post
        with self._storage.transaction() as tx:
            tx.metrics.increment("commandCount")
            tx.sessions.update(post.user, _count_command, default={"commands": 0})
            if post.approval:
                tx.approvals.add(post.command, post.payload())
                tx.events.append("approval_asked", {"command": post.command})
                return {"state": "pending", "nonce": request.nonce}
            schedule_post(tx, post)
            return {"state": "scheduled", "nonce": request.nonce}


def _count_command(session: dict[str, Any]) -> dict[str, Any]:
    return session | {"commands": session["commands"] + 1}


def schedule_post(tx: Storage, post: Post) -> None:
    """At its time, or in the next free slot of the platform."""
    at = post.at
    while True:
        try:
            job = tx.queue.schedule(
                post.platform,
                post.content,
                at,
                idempotency_key=post.command,
                min_gap=GAP,
                metadata={"user": post.user, "tags": list(post.tags)},
                max_lateness=post.max_lateness,
            )
        except ScheduleConflict as conflict:
            at = conflict.job.scheduled_at + GAP
        else:
            break
    moved = (at - post.at) // timedelta(minutes=1)
    tx.events.append("job_scheduled", {"command": post.command, "job": job.id, "moved_minutes": moved})
    if at != post.at:
        tx.events.append("slot_taken", {"command": post.command, "moved_minutes": moved})
