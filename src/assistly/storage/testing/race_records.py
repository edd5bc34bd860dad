"""Races over the other kinds of record: what each racer does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from ..errors import AlreadyExists, ClaimLost, Conflict, StatusConflict, VersionConflict
from ..records import Approval, IdempotencyClaim, PruneReport, Session, WorkerLock
from .races import Racer, caught


def register(racer: Racer, nonces: Sequence[str]) -> list[bool]:
    return racer.rounds(nonces, racer.storage.nonces.register)


def add_approval(racer: Racer, ids: Sequence[str]) -> list[Approval | AlreadyExists]:
    approvals = racer.storage.approvals

    def turn(id: str) -> Approval | AlreadyExists:
        return caught(AlreadyExists, lambda: approvals.add(id, {"by": racer.name}))

    return racer.rounds(ids, turn)


def decide(racer: Racer, ids: Sequence[str]) -> list[Approval | StatusConflict]:
    approvals = racer.storage.approvals

    def turn(id: str) -> Approval | StatusConflict:
        patch = {"by": racer.name}
        return caught(StatusConflict, lambda: approvals.decide(id, f"as {racer.name} says", patch=patch))

    return racer.rounds(ids, turn)


def claim_keys(racer: Racer, keys: Sequence[str], now: datetime) -> list[IdempotencyClaim]:
    return racer.rounds(keys, lambda key: racer.storage.idempotency.claim(key, now=now))


def complete_or_take_over(
    racer: Racer, held: Sequence[IdempotencyClaim], now: datetime
) -> list[IdempotencyClaim | ClaimLost | None]:
    """The first racer completes its claims, whose leases are over, and the others claim the keys."""
    idempotency = racer.storage.idempotency

    def turn(claim: IdempotencyClaim) -> IdempotencyClaim | ClaimLost | None:
        if racer.number == 0:
            return caught(ClaimLost, lambda: idempotency.complete(claim, "by the first", now=now))
        return idempotency.claim(claim.key, now=now)

    return racer.rounds(held, turn)


def run_once(racer: Racer, keys: Sequence[str]) -> list[tuple[int | None, int]]:
    """What came of the call, None if it was refused, and of the next one, when all had called.

    Whoever runs the function stays in it until the others were refused.
    """
    idempotency = racer.storage.idempotency

    def function() -> int:
        racer.meet()
        return racer.number

    def turn(key: str) -> tuple[int | None, int]:
        answer = caught(Conflict, lambda: idempotency.run_once(key, function))
        if isinstance(answer, Conflict):
            racer.meet()
        racer.meet()
        return None if isinstance(answer, Conflict) else answer, idempotency.run_once(key, function)

    return racer.rounds(keys, turn)


def count_up(racer: Racer, user_ids: Sequence[str], times: int) -> list[list[Session]]:
    sessions = racer.storage.sessions

    def change(data: Any) -> Any:
        return {"count": data["count"] + 1, "by": [*data["by"], racer.number]}

    def turn(user_id: str) -> list[Session]:
        return [sessions.update(user_id, change, default={"count": 0, "by": []}) for _ in range(times)]

    return racer.rounds(user_ids, turn)


def put_at_version(racer: Racer, user_ids: Sequence[str], version: int) -> list[Session | VersionConflict]:
    sessions = racer.storage.sessions

    def turn(user_id: str) -> Session | VersionConflict:
        return caught(VersionConflict, lambda: sessions.put(user_id, racer.name, expected_version=version))

    return racer.rounds(user_ids, turn)


def acquire(racer: Racer, name: str, start: datetime, ttl: timedelta, times: int) -> list[WorkerLock | None]:
    """Each round begins where the lease of the one before ends. Of each second one it is released."""
    lock = racer.storage.lock

    def turn(number: int) -> WorkerLock | None:
        now = start + number * ttl
        acquired = lock.acquire(racer.name, name=name, ttl=ttl, now=now)
        racer.meet()
        if acquired and number % 2:
            assert lock.release(acquired, now=now)
        return acquired

    return racer.rounds(range(times), turn)


def measure(racer: Racer, counters: Sequence[str], times: int) -> None:
    metrics = racer.storage.metrics
    for number in range(times):
        metrics.increment(counters[(number + racer.number) % len(counters)], racer.number + 1)
        metrics.observe_latency(0.5 + racer.number)


def prune_at(racer: Racer, moments: Sequence[datetime]) -> list[PruneReport]:
    return racer.rounds(moments, lambda now: racer.storage.prune(now=now))
