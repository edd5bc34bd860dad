"""The mutants bugs: each class is the plain engine with one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from assistly.storage.engine.protocol import IdempotencyRow
from assistly.storage.records import Approval, Job
from assistly.storage.validation import JsonText

from .engine import Database, Lock, Tables
from .queue import NaiveJobs
from .stores import (
    NaiveApprovals,
    NaiveIdempotency,
    NaiveLock,
    NaiveRetention,
    NaiveSessions,
    Place,
    PlainEngine,
)

TICK = timedelta(microseconds=1)


class CapsKeepTheOldest(PlainEngine):
    class retention_type(NaiveRetention):  # noqa: N801 - it stands for the attribute of that name
        def newest_beyond(self, kind: str, cap: int) -> Place | None:
            places = sorted(self._rows(kind).values())
            return places[cap] if len(places) > cap else None

        def doomed(self, place: Place, edge: Place) -> bool:
            return place >= edge


class PrunesWhatIsExactlyThatOld(PlainEngine):
    class retention_type(NaiveRetention):  # noqa: N801
        def older(self, moment: datetime, cutoff: datetime) -> bool:
            return moment <= cutoff


class GapIncludesItsEdge(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def near(self, at: datetime, earliest: datetime, latest: datetime) -> bool:
            return earliest - TICK <= at <= latest + TICK


class SettlesWithoutFence(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def holds(self, job: Job | None, claim: int) -> bool:
            return job is not None


class LeaseEndsOneTickLate(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def ran_out(self, lease_until: datetime, now: datetime) -> bool:
            return lease_until < now


class ClaimsInIdOrder(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def first(self, due: Sequence[Job], limit: int) -> Sequence[Job]:
            return sorted(due, key=lambda job: job.id)[:limit]


class ClaimIgnoresItsLimit(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def first(self, due: Sequence[Job], limit: int) -> Sequence[Job]:
            return super().first(due, len(due))


class HandsOutMissedJobs(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def missed(self, job: Job, now: datetime) -> bool:
            return False


class ReplayKeepsRetries(PlainEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replayed(self, job: Job) -> Job:
            return replace(super().replayed(job), retries=job.retries)


class TiesBrokenByKey(PlainEngine):
    class approvals_type(NaiveApprovals):  # noqa: N801
        def order(self, row: Approval) -> Any:
            return row.created_at, row.id


class FloatsComeBackAsIntegers(PlainEngine):
    class sessions_type(NaiveSessions):  # noqa: N801
        def decoded(self, text: JsonText) -> Any:
            return json.loads(
                text,
                parse_float=lambda number: int(float(number)) if number.endswith(".0") else float(number),
            )


class SessionsLoseUpdates(PlainEngine):
    class sessions_type(NaiveSessions):  # noqa: N801
        def at_version(self, version: int, expected: int | None) -> bool:
            return True


class CompletesWithoutToken(PlainEngine):
    class idempotency_type(NaiveIdempotency):  # noqa: N801
        def holds(self, row: IdempotencyRow, token: int) -> bool:
            return not row.completed


class ReleaseForgetsTheFence(PlainEngine):
    class lock_type(NaiveLock):  # noqa: N801
        def next_fence(self, lock: Lock) -> int:
            return lock.fence + 1 if lock.held else 1


class RollbackLeavesNonces(PlainEngine):
    class database_type(Database):  # noqa: N801
        def restore(self, before: Tables) -> None:
            super().restore(replace(before, nonces=self.tables.nonces))


BUGS: tuple[type[PlainEngine], ...] = (
    CapsKeepTheOldest,
    PrunesWhatIsExactlyThatOld,
    GapIncludesItsEdge,
    SettlesWithoutFence,
    LeaseEndsOneTickLate,
    ClaimsInIdOrder,
    ClaimIgnoresItsLimit,
    HandsOutMissedJobs,
    ReplayKeepsRetries,
    TiesBrokenByKey,
    FloatsComeBackAsIntegers,
    SessionsLoseUpdates,
    CompletesWithoutToken,
    ReleaseForgetsTheFence,
    RollbackLeavesNonces,
)
