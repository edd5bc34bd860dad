"""A worker: claims what is due, publishes it, and tells the storage how it went."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from assistly.storage import Failed, Job, JobStatus, Outcome, Snoozed, Storage

from .world import AnswerLost, Publisher, RateLimited, Refused

LEASE = timedelta(minutes=5)
_BATCH = 5


class Worker:
    def __init__(self, name: str, storage: Storage, publisher: Publisher) -> None:
        self.name = name
        self._storage = storage
        self._publisher = publisher
        self._held: list[Job] = []

    def claim(self) -> None:
        """Whoever has the worker lock also takes back the claims of workers that died."""
        if self._storage.lock.acquire(self.name):
            for job in self._storage.queue.rescue_expired():
                unknown = job.status is JobStatus.DEAD_LETTER and job.publish_started_at is not None
                self._log("claim_outcome_unknown" if unknown else "claim_rescued", job)
        self._held = self._storage.queue.claim_due(worker_id=self.name, limit=_BATCH, lease=LEASE)

    @property
    def holds(self) -> int:
        return len(self._held)

    def publish(self) -> None:
        held, self._held = self._held, []
        outcomes = [outcome for job in held if (outcome := self._publish_one(job)) is not None]
        snoozed = {outcome.job.id for outcome in outcomes if isinstance(outcome, Snoozed)}
        for job in self._storage.queue.settle(outcomes).jobs:
            if job.id in snoozed:
                self._log("job_snoozed", job)
            else:
                self._log("job_dead" if job.status is JobStatus.DEAD_LETTER else "job_failed", job)

    def die_half_way(self) -> None:
        """The first job goes out, and with that the process is gone: nobody settles anything."""
        first = self._storage.queue.begin_publish(self._held[0])
        self._log("worker_killed", first)
        with suppress(Refused, RateLimited, AnswerLost):
            self._publisher.publish(_command(first), first.platform, first.content)

    def _publish_one(self, job: Job) -> Outcome | None:
        """How it went, unless that is stored already, or nobody can know."""
        begun = self._storage.queue.begin_publish(job)
        try:
            remote_id = self._publisher.publish(_command(begun), begun.platform, begun.content)
        except RateLimited as limit:
            return Snoozed(begun, limit.until)
        except Refused as refusal:
            return Failed(begun, str(refusal), retryable=refusal.retryable)
        except AnswerLost:
            self._log("answer_lost", begun)
            return None
        self._storage.queue.mark_posted(begun, remote_id)
        self._log("job_posted", begun)
        return None

    def _log(self, event_type: str, job: Job) -> None:
        payload = {"command": _command(job), "job": job.id, "worker": self.name}
        self._storage.events.append(event_type, payload)


def _command(job: Job) -> str:
    return job.idempotency_key or ""
