"""Begins to publish, and settles, single jobs that workers hold. Concurrent calls are batched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..batching import RETRY_SINGLY, Answer, BatchedCall
from ..engine.values import Settlement
from ..records import Job, Outcome, record
from .context import Context
from .settling import settlement

_WRITERS = 2
"""How many batches may be in flight. With more, the jobs of one worker would hardly ever meet in a batch."""


@record
class SettleRequest:
    """An outcome, and its settlement at the time `at`."""

    outcome: Outcome
    settlement: Settlement
    at: datetime


class HeldJobs:
    """Calls on jobs that workers hold; each returns None if the claim is lost."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._begin = BatchedCall(context, _begin_single, _begin_batch, writers=_WRITERS)
        self._settle = BatchedCall(context, _settle_single, _settle_batch, _length, writers=_WRITERS)

    def begin(self, job: Job, now: datetime | None) -> Job | None:
        """See `Queue.begin_publish`."""
        if now is None:
            return self._begin.call((job.id, job.claim))
        at = self._context.lease_now(now)
        return self._context.backend.jobs.begin_publish(job.id, job.claim, now=at)

    def settle(self, outcome: Outcome, now: datetime | None) -> Job | None:
        """See `Queue.settle`."""
        at = self._context.now(now)
        request = SettleRequest(outcome, settlement(outcome, self._context.policies.retry, at), at)
        return self._settle.call(request) if now is None else _settle_single(self._context, request)


def _begin_single(context: Context, claim: tuple[int, int]) -> Job | None:
    return context.backend.jobs.begin_publish(*claim, now=context.lease_now(None))


def _begin_batch(context: Context, claims: Sequence[tuple[int, int]], _: datetime) -> Sequence[Answer]:
    if len({*claims}) < len(claims):
        return [RETRY_SINGLY] * len(claims)
    return context.backend.jobs.begin_publish_many(claims, now=context.lease_now(None))


def _settle_single(context: Context, request: SettleRequest) -> Job | None:
    return context.backend.jobs.settle([request.settlement], now=request.at)[0]


def _settle_batch(context: Context, requests: Sequence[SettleRequest], now: datetime) -> Sequence[Answer]:
    """Settle a batch, which has one time: so the settlements are made anew."""
    retry = context.policies.retry
    settlements = [settlement(request.outcome, retry, now) for request in requests]
    return context.backend.jobs.settle(settlements, now=now)


def _length(request: SettleRequest) -> int:
    return len(request.settlement.error)
