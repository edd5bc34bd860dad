"""The people around the bot: reviewers who decide approvals, an operator who reads the dead letters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from assistly.storage import Approval, Job, StatusConflict, Storage

from .calendar import Post
from .desk import schedule_post
from .world import Publisher

_REJECT_EVERY = 4
_LATE_EVERY = 5
_EARLY = timedelta(hours=2)
_LATE = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Decision:
    moment: datetime
    id: str
    status: str


class Reviewers:
    """They decide in good time, but for every fifth decision, and reject every fourth post."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def agenda(self) -> list[Decision]:
        posts = [post_of(approval) for approval in pending(self._storage)]
        posts.sort(key=lambda post: (post.at, post.command))
        return [
            Decision(
                moment=post.at + _LATE if number % _LATE_EVERY == 0 else post.at - _EARLY,
                id=post.command,
                status="rejected" if number % _REJECT_EVERY == 0 else "approved",
            )
            for number, post in enumerate(posts, start=1)
        ]

    def decide(self, decision: Decision, by: str = "carla") -> None:
        try:
            with self._storage.transaction() as tx:
                approval = tx.approvals.decide(decision.id, decision.status, patch={"by": by})
                if decision.status == "approved":
                    schedule_post(tx, post_of(approval))
                tx.events.append(f"approval_{decision.status}", {"command": decision.id})
        except StatusConflict:
            self._storage.events.append("approval_decided_before", {"command": decision.id})

    def decide_both_at_once(self, decision: Decision) -> None:
        """Two reviewers, on threads of their own: one of them gets his way."""
        barrier = threading.Barrier(2)

        def run(by: str) -> None:
            barrier.wait()
            self.decide(decision, by)

        with ThreadPoolExecutor(2) as pool:
            for answer in [pool.submit(run, by) for by in ("ana", "ben")]:
                answer.result()


def pending(storage: Storage) -> Iterator[Approval]:
    page = storage.approvals.list(status="pending", limit=1000)
    while page:
        yield from page
        page = storage.approvals.list(status="pending", before=page[-1], limit=1000)


def post_of(approval: Approval) -> Post:
    fields = {name: value for name, value in approval.payload.items() if name != "by"}
    return Post.model_validate(fields, strict=False)


class Operator:
    def __init__(self, storage: Storage, publisher: Publisher) -> None:
        self._storage = storage
        self._publisher = publisher

    def review(self) -> int:
        """Work through the dead letters; how many were replayed or closed.

        What was rejected or missed stays where it is. Of an unknown outcome the platform knows.
        """
        self._publisher.repair()
        return sum(self._handle(job) for job in dead_letters(self._storage))

    def _handle(self, job: Job) -> bool:
        reason = job.dead_letter_reason or ""
        if reason.startswith("outcome unknown: "):
            return self._resolve(job)
        if reason.startswith(("missed: ", "422: ")):
            return False
        return self._replay(job)

    def _resolve(self, job: Job) -> bool:
        found = self._publisher.find(job.idempotency_key or "")
        if found is None:
            return self._replay(job)
        with self._storage.transaction() as tx:
            tx.queue.remove(job.id)
            payload = {"command": job.idempotency_key, "job": job.id, "remote_id": found.remote_id}
            tx.events.append("job_confirmed", payload)
        return True

    def _replay(self, job: Job) -> bool:
        with self._storage.transaction() as tx:
            replayed = tx.queue.replay(job.id) is not None
            tx.events.append("job_replayed", {"command": job.idempotency_key, "job": job.id})
        return replayed


def dead_letters(storage: Storage) -> Iterator[Job]:
    page = storage.queue.dead_letters(limit=1000)
    while page:
        yield from page
        page = storage.queue.dead_letters(after=page[-1], limit=1000)
