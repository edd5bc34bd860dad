"""The mutants: each class is the naive engine with one thing wrong."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from assistly.storage import transitions
from assistly.storage.engine import PAUSES, Document, JsonText, Settlement
from assistly.storage.records import Approval, Job, JobStatus, QueueDepth, TimelineCount

from .engine import NaiveBackend, NaiveDatabase, NaiveTables
from .queue import NaiveJobs
from .stores import (
    NaiveApprovals,
    NaiveDocuments,
    NaiveEngine,
    NaiveEvents,
    NaiveIdempotency,
    NaiveLocks,
    NaiveMetrics,
    NaiveNonces,
    NaiveRetention,
    NaiveSessions,
    NaiveSnapshots,
    Position,
)

TICK = timedelta(microseconds=1)


class CapsKeepTheOldest(NaiveEngine):
    class retention_type(NaiveRetention):  # noqa: N801 - it stands for the attribute of that name
        def newest_beyond(self, kind: str, cap: int) -> Position | None:
            positions = sorted(self.positions(kind).values())
            return positions[cap] if len(positions) > cap else None

        def doomed(self, position: Position, edge: Position) -> bool:
            return position >= edge


class PrunesWhatIsExactlyThatOld(NaiveEngine):
    class retention_type(NaiveRetention):  # noqa: N801
        def older(self, moment: datetime, cutoff: datetime) -> bool:
            return moment <= cutoff


class CountingDeletes(NaiveEngine):
    class retention_type(NaiveRetention):  # noqa: N801
        def count_prunable(self, kind: Any, bound: Any) -> tuple[int, bool]:
            if isinstance(bound, datetime):
                return self.delete_older(kind, bound, limit=10**9), True
            return self.delete_up_to(kind, bound, limit=10**9), True


class CountsWhatIsExactlyThatOld(NaiveEngine):
    class retention_type(NaiveRetention):  # noqa: N801
        def count_prunable(self, kind: Any, bound: Any) -> tuple[int, bool]:
            return super().count_prunable(kind, bound + TICK if isinstance(bound, datetime) else bound)


class CountsAtMostTwo(NaiveEngine):
    class retention_type(NaiveRetention):  # noqa: N801
        def count_prunable(self, kind: Any, bound: Any) -> tuple[int, bool]:
            return min(2, super().count_prunable(kind, bound)[0]), True


class TakesTheStampOfAnother(NaiveEngine):
    class retention_type(NaiveRetention):  # noqa: N801
        def reset_prune(self, *, now: datetime) -> None:
            self.set_stamp(None)


class GapIncludesItsEdge(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def near(self, at: datetime, earliest: datetime, latest: datetime) -> bool:
            return earliest - TICK <= at <= latest + TICK


class SettlesWithoutFence(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(self, settlements: Sequence[Settlement], **options: Any) -> Sequence[Job | None]:
            return super().settle([self._current(one) for one in settlements], **options)

        def _current(self, settlement: Settlement) -> Settlement:
            job = _alter(self, self.get(settlement.id), status=JobStatus.PROCESSING)
            return settlement if job is None else replace(settlement, job=job)


class SettlesBatchesWithoutFence(NaiveEngine):
    class jobs_type(SettlesWithoutFence.jobs_type):  # noqa: N801
        def _current(self, settlement: Settlement) -> Settlement:
            return super()._current(settlement) if self.is_batch else settlement

        def settle(self, settlements: Sequence[Settlement], **options: Any) -> Sequence[Job | None]:
            self.is_batch = len(settlements) > 1
            return super().settle(settlements, **options)


class PostedJobsAreTheHoldersCopy(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(self, settlements: Sequence[Settlement], **options: Any) -> Sequence[Job | None]:
            results = super().settle(settlements, **options)
            return [
                _alter(self, job, publish_started_at=one.job.publish_started_at)
                if one.kind == "posted"
                else job
                for one, job in zip(settlements, results, strict=True)
            ]


class ClaimedJobsAreNeverLate(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def late(self, *, limit: int, **options: Any) -> Sequence[Job]:
            return [job for job in super().late(limit=10**9, **options) if not job.claim][:limit]


class ReplaysTheNewest(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay_many(self, *, platform: str | None, limit: int | None, **options: Any) -> int:
            dead = self.list(status=JobStatus.DEAD_LETTER, platform=platform, after=0, limit=10**9)
            chosen = dead[::-1][:limit]
            return sum(self.replay(job.id, **options) is not None for job in chosen)


class ReplaysUnknownOutcomes(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay_many(self, *, unknown: bool, **options: Any) -> int:
            return super().replay_many(unknown=True, **options)


class ReplaysMissedJobs(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay_many(self, *, missed: bool, **options: Any) -> int:
            return super().replay_many(missed=True, **options)


class ReplaysCancelledJobsWithOthers(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay_many(self, *, scheduled_at: datetime, now: datetime, **options: Any) -> int:
            count = super().replay_many(scheduled_at=scheduled_at, now=now, **options)
            gone = self.list(status=JobStatus.CANCELLED, platform=options["platform"], after=0, limit=10**9)
            return count + sum(self.replay(job.id, scheduled_at, now=now) is not None for job in gone)


class LimitCountsWhatIsLeftOut(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay_many(self, *, limit: int | None, unknown: bool, missed: bool, **options: Any) -> int:
            dead = self.list(
                status=JobStatus.DEAD_LETTER, platform=options.pop("platform"), after=0, limit=limit or 10**9
            )
            chosen = [
                job for job in dead if (unknown or not job.outcome_unknown) and (missed or not job.missed)
            ]
            return sum(self.replay(job.id, **options) is not None for job in chosen)


class MissedIsAnyReasonThatBeginsSo(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay_many(self, *, missed: bool, **options: Any) -> int:
            dead = self.list(status=JobStatus.DEAD_LETTER, platform=None, after=0, limit=10**9)
            for job in dead:
                if (job.dead_letter_reason or "").startswith("missed: ") and not missed:
                    _alter(self, job, status=JobStatus.POSTED)
            count = super().replay_many(missed=missed, **options)
            for job in dead:
                if self.get(job.id) == replace(job, status=JobStatus.POSTED):
                    self.save(job)
            return count


class ReplaysNoCancelledJobs(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
            job = self.get(id)
            gone = job is not None and job.status is JobStatus.CANCELLED
            return None if gone else super().replay(id, scheduled_at, now=now)


class ReplayKeepsTheCheckpoint(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
            before = self.get(id)
            replayed = super().replay(id, scheduled_at, now=now)
            return _alter(self, replayed, checkpoint=before and before.checkpoint)


class PostedJobsKeepTheCheckpoint(NaiveEngine):
    """In a batch of several."""

    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(self, settlements: Sequence[Settlement], **options: Any) -> Sequence[Job | None]:
            before = [self.get(one.id) for one in settlements]
            results = super().settle(settlements, **options)
            if len(settlements) == 1:
                return results
            return [
                _alter(self, job, checkpoint=old.checkpoint) if job and old and one.kind == "posted" else job
                for one, old, job in zip(settlements, before, results, strict=True)
            ]


class PostedJobsHaveTheHoldersCheckpoint(NaiveEngine):
    """What a batch returns is made of the holder's records."""

    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(self, settlements: Sequence[Settlement], **options: Any) -> Sequence[Job | None]:
            results = super().settle(settlements, **options)
            return [
                replace(job, checkpoint=one.job.checkpoint) if job and one.kind == "posted" else job
                for one, job in zip(settlements, results, strict=True)
            ]


class FailuresLoseTheCheckpoint(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(self, settlements: Sequence[Settlement], **options: Any) -> Sequence[Job | None]:
            results = super().settle(settlements, **options)
            return [
                _alter(self, job, checkpoint=None) if one.kind == "failed" else job
                for one, job in zip(settlements, results, strict=True)
            ]


class SavedJobsAreTheCallersToChange(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def copied(self, job: Job) -> Job:
            return job


class CountsNoCancelledJobs(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
            counts = super().counts(posted=posted)
            counts.pop(JobStatus.CANCELLED, None)
            return counts


class CancelledJobsKeepTheirSlot(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        active = (*transitions.ACTIVE, JobStatus.CANCELLED)


class CancelledJobsWait(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        waiting_statuses = (*transitions.WAITING, JobStatus.CANCELLED)


class WaitIgnoresPlatforms(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def next_due_at(self, **options: Any) -> datetime | None:
            return super().next_due_at(**{**options, "platforms": None})


class WaitKnowsNoTwoPlatforms(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def next_due_at(self, *, platforms: Sequence[str] | None = None, **options: Any) -> datetime | None:
            return super().next_due_at(platforms=platforms and platforms[:1], **options)


class WaitReturnsAtOnce(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def wait(self, timeout: float) -> None:
            """Nothing."""


class PagesOfWaitingJobsByTime(NaiveEngine):
    """Jobs that are due at the time of the last one of a page are left out of the next."""

    class jobs_type(NaiveJobs):  # noqa: N801
        def waiting(self, *, after: tuple[datetime, int] | None, **options: Any) -> Sequence[Job]:
            return super().waiting(after=after and (after[0], 2**62), **options)


class UntilIsNotIncluded(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def waiting(self, *, until: datetime | None, **options: Any) -> Sequence[Job]:
            return super().waiting(until=until and until - TICK, **options)


class DueNowIsNotDueInDepths(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
            return super().depths(limit=limit, now=now - TICK)


class DepthsEndBehindTheLimit(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
            return super().depths(limit=limit + 1, now=now)


class DepthsAreAlwaysExact(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
            return [replace(depth, exact=True) for depth in super().depths(limit=limit, now=now)]


class TimelineIncludesItsEnd(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
            return super().timeline([*edges[:-1], edges[-1] + TICK], limit=limit)


class TimelineIsAlwaysExact(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
            return [replace(count, exact=True) for count in super().timeline(edges, limit=limit)]


class TimelineForgetsRetries(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
            found = super().timeline(edges, limit=limit)
            return [count for count in found if count.status is not JobStatus.RETRYING]


class SumsWrapAt64Bits(NaiveEngine):
    class metrics_type(NaiveMetrics):  # noqa: N801
        def increment_many(self, by_name: Mapping[str, int]) -> None:
            super().increment_many(by_name)
            for name in by_name:
                self.tables.counters[name] = (self.tables.counters[name] + 2**63) % 2**64 - 2**63


class KeepsTheLastLatency(NaiveEngine):
    class metrics_type(NaiveMetrics):  # noqa: N801
        def observe_latencies(self, count: int, total: int, longest: int) -> None:
            super().observe_latencies(count, total, longest)
            counts, totals, _ = self.tables.latency
            self.tables.latency = counts, totals, longest


class RescuesWithoutTheLease(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(
            self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
        ) -> Sequence[Job | None]:
            kept = [one for one in settlements if not (expired_only and self._begun(one))]
            results = iter(super().settle(kept, now=now))
            return [next(results) if one in kept else None for one in settlements]

        def _begun(self, settlement: Settlement) -> bool:
            job = self.get(settlement.id)
            return job is not None and bool(job.publish_started_at) and not settlement.keep_publish


class RescuesOneTickLate(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
            return super().expired(limit=limit, now=now - TICK)


class ExtendsWhatRanOut(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def extend(
            self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
        ) -> Sequence[Job]:
            return super().extend(claims, lease_until=lease_until, now=now - TICK)


class ClaimsInIdOrder(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def waiting(self, *, limit: int, **options: Any) -> Sequence[Job]:
            return sorted(super().waiting(limit=10**9, **options), key=lambda job: job.id)[:limit]


class ClaimIgnoresItsLimit(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def claim(self, *, limit: int, **options: Any) -> Sequence[Job]:
            return super().claim(limit=limit + 1, **options)


class HandsOutLateJobs(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def claim(
            self, *, worker_id: str, limit: int, lease_until: datetime, **options: Any
        ) -> Sequence[Job]:
            claimed = [*super().claim(worker_id=worker_id, limit=limit, lease_until=lease_until, **options)]
            now, platforms = options["now"], options["platforms"]
            for job in self.late(limit=limit - len(claimed), platforms=platforms, now=now):
                held = replace(job, claim=job.claim + 1, worker_id=worker_id, lease_until=lease_until)
                claimed.append(replace(held, status=JobStatus.PROCESSING, updated_at=now))
                self.save(claimed[-1])
            return claimed


class LooksAtLateJobsOfAllPlatforms(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def claim(self, *, now: datetime, unless_overdue: bool = False, **options: Any) -> Sequence[Job]:
            if unless_overdue and self.late(limit=1, platforms=None, now=now):
                return []
            return super().claim(now=now, unless_overdue=unless_overdue, **options)


class NeverClaimsUnlessOverdue(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def claim(self, *, unless_overdue: bool = False, **options: Any) -> Sequence[Job]:
            return [] if unless_overdue else super().claim(**options)


class ClaimsThoughOverdue(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def claim(self, *, unless_overdue: bool = False, **options: Any) -> Sequence[Job]:
            return super().claim(**options)


class MovesLateJobsById(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def late(self, *, limit: int, **options: Any) -> Sequence[Job]:
            return sorted(super().late(limit=10**9, **options), key=lambda job: job.id)[:limit]


class LateJobsKeepTheirRetryTime(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def dead_letter_late(self, *, limit: int, now: datetime, **options: Any) -> Sequence[Job]:
            late = self.late(limit=limit, platforms=options["platforms"], now=now)
            moved = super().dead_letter_late(limit=limit, now=now, **options)
            for before in late:
                _alter(self, self.get(before.id), next_retry_at=before.next_retry_at, due_at=before.due_at)
            return moved


class ReplayKeepsRetries(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
            before = self.get(id)
            return _alter(self, super().replay(id, scheduled_at, now=now), retries=before and before.retries)


class WaitOnlySleeps(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def wait(self, timeout: float) -> None:
            threading.Event().wait(timeout)


class WaitForgetsTheLook(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def wait(self, timeout: float) -> None:
            self.database.looks.commits = self.database.commits
            super().wait(timeout)


class WaitHearsOfNoTransaction(NaiveEngine):
    @contextmanager
    def transaction(self) -> Iterator[NaiveBackend]:
        database = self.database
        tell, database.announce = database.announce, lambda: None  # type: ignore[method-assign]
        try:
            with super().transaction() as inner:
                yield inner
        finally:
            database.announce = tell  # type: ignore[method-assign]


class IgnoresPauses(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def pauses(self, now: datetime) -> dict[str, datetime | None]:
            return {}


class PausesNeverEnd(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def pauses(self, now: datetime) -> dict[str, datetime | None]:
            documents = self._backend.documents.list(PAUSES, after=None, limit=10**9)
            return {document.key: None for document in documents}


class PausesEndOneTickLate(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def pauses(self, now: datetime) -> dict[str, datetime | None]:
            return super().pauses(now if now == datetime.min.replace(tzinfo=now.tzinfo) else now - TICK)


class PausesEndByFloats(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def pauses(self, now: datetime) -> dict[str, datetime | None]:
            return {
                name: None
                if until is None
                else datetime.fromtimestamp(until.timestamp() + 1e-5, until.tzinfo)
                for name, until in super().pauses(now).items()
            }


class FindsJobsDuringPauses(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def next_due_at(self, *, now: datetime | None = None, **options: Any) -> datetime | None:
            return super().next_due_at(**options)


class SleepsThroughTheEndOfAPause(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def next_due_at(self, *, now: datetime | None = None, **options: Any) -> datetime | None:
            found = super().next_due_at(now=now, **options)
            ends = [] if now is None else self.pauses(now).values()
            return None if found in ends else found


class MissesOnlyWhatRuns(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def late(self, *, limit: int, now: datetime, **options: Any) -> Sequence[Job]:
            paused = self.pauses(now)
            late = super().late(limit=10**9, now=now, **options)
            return [job for job in late if job.platform not in paused][:limit]


class PausesHoldLeases(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
            paused = self.pauses(now)
            return [job for job in super().expired(limit=limit, now=now) if job.platform not in paused]


class PausesEndClaims(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def settle(self, settlements: Sequence[Settlement], *, now: datetime, **options: Any) -> Any:
            paused = self.pauses(now)
            open_ones = [one for one in settlements if one.job.platform not in paused]
            settled = iter(super().settle(open_ones, now=now, **options))
            return [None if one.job.platform in paused else next(settled) for one in settlements]


class PausesWakeNobody(NaiveEngine):
    @contextmanager
    def transaction(self) -> Iterator[NaiveBackend]:
        database = self.database
        tell, before = database.announce, database.tables.jobs

        def tell_of_jobs() -> None:
            if database.tables.jobs != before:
                tell()

        database.announce = tell_of_jobs  # type: ignore[method-assign]
        try:
            with super().transaction() as inner:
                yield inner
        finally:
            database.announce = tell  # type: ignore[method-assign]


class PutsAtAnyVersion(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def put(self, *args: Any, expected_version: int | None, **options: Any) -> Document | None:
            return super().put(*args, expected_version=None, **options)


class PutsOnlyNewOnesAtAVersion(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def put(self, *args: Any, expected_version: int | None, **options: Any) -> Document | None:
            return super().put(*args, expected_version=expected_version or None, **options)


class VersionsBeginAnew(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def save(self, *args: Any, version: int, **options: Any) -> Document:
            return super().save(*args, version=min(version, 2), **options)


class DocumentsKeepTheirDate(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def written(self, document: Document) -> Document:
            stored = self.get(document.collection, document.key)
            first = document if stored is None else replace(document, updated_at=stored.updated_at)
            return super().written(first)


class ListsAllCollections(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def is_in(self, document: Document, collection: str) -> bool:
            return document.collection.startswith(collection)


class DocumentsIgnoreCase(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def kept(self, name: str) -> str:
            return name.casefold()


class DeletesFromAllCollections(NaiveEngine):
    class documents_type(NaiveDocuments):  # noqa: N801
        def delete(self, collection: str, key: str) -> bool:
            for other, found in [*self.tables.documents]:
                if found == key and other != collection:
                    super().delete(other, key)
            return super().delete(collection, key)


class RollbackLeavesDocuments(NaiveEngine):
    class database_type(NaiveDatabase):  # noqa: N801
        def restore(self, before: NaiveTables) -> None:
            super().restore(replace(before, documents=self.tables.documents))


class TiesBrokenByKey(NaiveEngine):
    class approvals_type(NaiveApprovals):  # noqa: N801
        def order(self, row: Approval) -> Any:
            return row.created_at, row.id


class FloatsComeBackAsIntegers(NaiveEngine):
    class sessions_type(NaiveSessions):  # noqa: N801
        def decoded(self, text: JsonText) -> Any:
            return json.loads(
                text,
                parse_float=lambda number: int(float(number)) if number.endswith(".0") else float(number),
            )


class SessionsLoseUpdates(NaiveEngine):
    class sessions_type(NaiveSessions):  # noqa: N801
        def put(self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime) -> Any:
            return super().put(user_id, data, expected_version=None, now=now)


class CompletesWithoutToken(NaiveEngine):
    class idempotency_type(NaiveIdempotency):  # noqa: N801
        def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
            row = self.row(key)
            return super().complete(key, (row and row.token) or token, value, now=now)


class ForgetsNoKeyInProgress(NaiveEngine):
    class idempotency_type(NaiveIdempotency):  # noqa: N801
        def forget(self, key: str) -> bool:
            return self.get(key) is not None and super().forget(key)


class ForgetsWhatIsUnknown(NaiveEngine):
    class idempotency_type(NaiveIdempotency):  # noqa: N801
        def forget(self, key: str) -> bool:
            return super().forget(key) or True


class ListsLocksOneTickLate(NaiveEngine):
    class lock_type(NaiveLocks):  # noqa: N801
        def list(self, *, now: datetime) -> Any:
            return super().list(now=now - TICK)


class ListsLocksInInsertionOrder(NaiveEngine):
    class lock_type(NaiveLocks):  # noqa: N801
        def list(self, *, now: datetime) -> Any:
            names = [*self.tables.locks]
            return sorted(super().list(now=now), key=lambda lock: names.index(lock.name))


class ReleaseForgetsTheFence(NaiveEngine):
    class lock_type(NaiveLocks):  # noqa: N801
        def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
            released = super().release(name, owner_id, fence, now=now)
            row = self.load(name)
            if released and row is not None:
                self.save(replace(row, fence=0))
            return released


class UsesTheIdsOfJobsAgain(NaiveEngine):
    class jobs_type(NaiveJobs):  # noqa: N801
        def next_number(self, taken: Any) -> int:
            return max(taken, default=0) + 1


class UsesTheIdsOfEventsAgain(NaiveEngine):
    class events_type(NaiveEvents):  # noqa: N801
        def next_number(self, taken: Any) -> int:
            return max(taken, default=0) + 1


class RollbackLeavesNonces(NaiveEngine):
    class database_type(NaiveDatabase):  # noqa: N801
        def restore(self, before: NaiveTables) -> None:
            super().restore(replace(before, nonces=self.tables.nonces))


class OtherThreadsReadOutsideTheTransaction(NaiveEngine):
    def __init__(self, parent: NaiveBackend | None = None) -> None:
        self._thread = threading.get_ident()
        super().__init__(parent)

    @property
    def tables(self) -> NaiveTables:
        before = self.database.before
        outside = not self.is_root and self._thread != threading.get_ident() and before is not None
        return before if outside and before is not None else self.database.tables


class CallsOfTheThreadJoin(NaiveEngine):
    """A call takes part in the transaction that was begun on its thread."""

    _owner: int | None = None

    @contextmanager
    def transaction(self) -> Iterator[NaiveBackend]:
        with super().transaction() as inner:
            self._owner = threading.get_ident()
            try:
                yield inner
            finally:
                self._owner = None

    @contextmanager
    def call(self) -> Iterator[None]:
        if self._owner == threading.get_ident():
            yield
            return
        with super().call():
            yield


class TransactionsBelongToTheirThread(NaiveEngine):
    class database_type(NaiveDatabase):  # noqa: N801
        def _renew(self) -> None:
            super()._renew()
            self.lock = threading.RLock()  # type: ignore[assignment]


class CommitsThoughClosed(NaiveEngine):
    class database_type(NaiveDatabase):  # noqa: N801
        def check_open(self) -> None:
            if self.before is None:
                super().check_open()


class CloseKeepsFilesOpen(NaiveEngine):
    def __init__(self, parent: NaiveBackend | None = None) -> None:
        super().__init__(parent)
        self.file = os.open(os.devnull, os.O_RDONLY) if parent is None else None


class MaintainsThoughClosed(NaiveEngine):
    def maintain(self) -> None:
        """Nothing."""


class KnowsNoForks(NaiveEngine):
    class database_type(NaiveDatabase):  # noqa: N801
        supports_forks = False


class ChildSeesWhatIsNotCommitted(NaiveEngine):
    class database_type(NaiveDatabase):  # noqa: N801
        def after_fork_in_child(self) -> None:
            self.before = None
            super().after_fork_in_child()


def _alter(jobs: NaiveJobs, job: Job | None, **changes: Any) -> Job | None:
    if job is None:
        return None
    altered = replace(job, **changes)
    jobs.save(altered)
    return altered


def _named(name: str, **members: Any) -> type[NaiveEngine]:
    return type(name, (NaiveEngine,), {"__module__": __name__, **members})


def _cut(_: object, name: str | None) -> str | None:
    return name and name.encode()[:510].decode(errors="ignore")


_CUT: dict[str, tuple[str, type[Any], str]] = {
    "Nonces": ("nonces_type", NaiveNonces, "kept"),
    "Users": ("sessions_type", NaiveSessions, "kept"),
    "Approvals": ("approvals_type", NaiveApprovals, "kept"),
    "Keys": ("idempotency_type", NaiveIdempotency, "kept"),
    "Counters": ("metrics_type", NaiveMetrics, "kept"),
    "Locks": ("lock_type", NaiveLocks, "kept"),
    "EventTypes": ("events_type", NaiveEvents, "kept"),
    "Snapshots": ("snapshots_type", NaiveSnapshots, "kept"),
    "Platforms": ("jobs_type", NaiveJobs, "kept"),
    "KeysOfJobs": ("jobs_type", NaiveJobs, "kept_key"),
    "KeysOfDocuments": ("documents_type", NaiveDocuments, "kept"),
}

CUTTING: tuple[type[NaiveEngine], ...] = tuple(
    _named(f"Cuts{what}At510Bytes", **{store: type(store, (base,), {member: _cut})})
    for what, (store, base, member) in _CUT.items()
)
"""For each kind of name: only its first 510 bytes count."""


def _losing(column: str) -> type[NaiveJobs]:
    def save(self: NaiveJobs, job: Job) -> None:
        stored = self.get(job.id)
        kept = job if stored is None else replace(job, **{column: getattr(stored, column)})
        NaiveJobs.save(self, kept)

    return type("jobs_type", (NaiveJobs,), {"save": save})


SAVING: tuple[type[NaiveEngine], ...] = tuple(
    _named(f"SaveLoses{part.name.title().replace('_', '')}", jobs_type=_losing(part.name))
    for part in fields(Job)
    if part.name != "id"
)
"""For each column of a job: `save` leaves it as it was."""


def _undated(method: str, applies: Callable[[Job], bool] = lambda _: True) -> type[NaiveJobs]:
    """The jobs that this method changed keep their date."""

    def change(self: NaiveJobs, *args: Any, **options: Any) -> Any:
        before = {job.id: job for job in self.tables.jobs.values()}
        result = getattr(NaiveJobs, method)(self, *args, **options)
        for id, job in before.items():
            stored = self.get(id)
            if stored is not None and stored != job and applies(job):
                _alter(self, stored, updated_at=job.updated_at)
        if isinstance(result, Job):
            return self.get(result.id)
        return [job and self.get(job.id) for job in result] if isinstance(result, list) else result

    return type("jobs_type", (NaiveJobs,), {method: change})


UNDATED: tuple[type[NaiveEngine], ...] = (
    *(
        _named(f"{method.title().replace('_', '')}KeepsUpdatedAt", jobs_type=_undated(method))
        for method in ("claim", "dead_letter_late", "extend", "settle", "replay", "replay_many", "reschedule")
    ),
    _named(
        "FirstBeginPublishKeepsUpdatedAt",
        jobs_type=_undated("begin_publish", lambda job: job.publish_started_at is None),
    ),
    _named(
        "RepeatedBeginPublishKeepsUpdatedAt",
        jobs_type=_undated("begin_publish", lambda job: job.publish_started_at is not None),
    ),
)
"""For each method that changes a job: `updated_at` does not follow."""
