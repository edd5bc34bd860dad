"""Claims due jobs, and reclaims those whose lease has expired."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from .. import validation as check
from ..records import MISSED, Claimed, Job
from .context import Context
from .settling import expire

DEFAULT_LEASE = timedelta(minutes=5)
_SWEEP = 100


def claim(
    context: Context,
    *,
    worker_id: str,
    limit: int,
    lease: timedelta,
    platforms: Iterable[str] | None,
    now: datetime | None,
) -> Claimed:
    """See `Queue.sweep_and_claim`."""
    check.name("worker_id", worker_id)
    check.limit(limit)
    check.duration("lease", lease, zero=False)
    wanted = check.names("platforms", platforms)
    at, leased_at = context.times(now)
    until = check.later(leased_at, lease)
    jobs = context.backend.jobs
    # If the clock was set back, the claim below does not see which leases have run out since.
    rescued = rescue(context, _SWEEP, at, leased_at) if leased_at != at else []
    claimed = jobs.claim(
        worker_id=worker_id, limit=limit, lease_until=until, platforms=wanted, now=at, unless_overdue=True
    )
    if claimed:
        return Claimed([*claimed], rescued, [])
    rescued += rescue(context, _SWEEP, at, leased_at)
    reason = (
        f"{MISSED}later than its max_lateness when a worker found it at {at.isoformat(timespec='seconds')}"
    )
    missed = jobs.dead_letter_late(limit=_SWEEP, platforms=wanted, reason=reason, now=at)
    claimed = jobs.claim(worker_id=worker_id, limit=limit, lease_until=until, platforms=wanted, now=at)
    return Claimed([*claimed], rescued, [*missed])


def rescue(context: Context, limit: int, at: datetime, leased_at: datetime) -> list[Job]:
    """See `Queue.rescue_expired`. `leased_at` is the time by which leases are counted."""
    jobs = context.backend.jobs
    expired = jobs.expired(limit=limit, now=leased_at)
    if not expired:
        return []
    retry = context.policies.retry
    results = jobs.settle([expire(job, retry, at) for job in expired], now=leased_at, expired_only=True)
    return [job for job in results if job is not None]
