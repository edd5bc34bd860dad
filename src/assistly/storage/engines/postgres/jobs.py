"""The queue: inserting, claiming and settling, with one statement for a batch."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from ... import transitions
from ...engine.base import BackendBase
from ...engine.values import ATTEMPT_ERROR_LENGTH, KEPT_ATTEMPTS, JobDraft, Settlement
from ...errors import InvalidValue
from ...records import Job
from ..sql.conditions import WAITING
from ..sql.database import Row
from ..sql.jobs import (
    HELD,
    JOB_COLUMNS,
    STATUS_BEFORE_CLAIM,
    JobStatements,
    SqlJobStore,
    in_microseconds,
)
from ..sql.store import to_microseconds
from .batches import chunks
from .bulk import WORTH_COPYING, BulkStatements, copy_jobs
from .counts import PostgresCounts
from .dialect import PostgresDialect, lock_key
from .executor import PostgresExecutor
from .inserts import InsertStatements, drafts_json, ids_of
from .server import PostgresWork
from .wakeups import POLL_SECONDS

# A job that falls due later is found by the next poll, so it needs no notification.
_SOON = timedelta(seconds=2 * POLL_SECONDS)
_in_order = attrgetter("due_at", "id")


class PostgresJobStatements(JobStatements, InsertStatements, BulkStatements):
    """The statements on jobs. The column `attention_at` holds the result of `transitions.check_at`."""

    def __init__(self, d: PostgresDialect) -> None:
        JobStatements.__init__(self, d)
        InsertStatements.__init__(self, d)
        BulkStatements.__init__(self, d)
        # Locked in the order of the array, to avoid deadlocks.
        self.lock_platforms = """
            SELECT pg_catalog.pg_advisory_xact_lock(key)
            FROM pg_catalog.unnest(%(keys)s::bigint[]) AS key
        """
        self.post = f"""
            UPDATE {self.table}
            SET status = 'posted', posted_at = %(now)s, remote_id = %(remote_id)s, next_retry_at = NULL,
                due_at = scheduled_at, attention_at = NULL, worker_id = NULL, lease_until = NULL,
                checkpoint = NULL, updated_at = %(now)s
            WHERE id = %(id)s AND claim = %(claim)s AND {HELD}
            RETURNING {JOB_COLUMNS}
        """
        given = "id = ANY(%(ids)s::bigint[]) AND id = given.job AND claim = given.fence"
        self.post_many = f"""
            UPDATE {self.table}
            SET status = 'posted', posted_at = %(now)s, remote_id = given.remote, next_retry_at = NULL,
                due_at = scheduled_at, attention_at = NULL, worker_id = NULL, lease_until = NULL,
                checkpoint = NULL, updated_at = %(now)s
            FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(remote_ids)s::text[])
                AS given (job, fence, remote)
            WHERE {given} AND {HELD}
            RETURNING {JOB_COLUMNS}
        """
        late_after = "scheduled_at + max_lateness * interval '1 microsecond'"
        is_final = "(final OR retries + 1 >= max_retries)"
        # `expired_only`: publishing may have begun since the caller saw the lease run out.
        self.fail_many = f"""
            UPDATE {self.table}
            SET status = CASE WHEN {is_final} THEN 'dead_letter' ELSE 'retrying' END,
                retries = retries + 1,
                last_error = given.message,
                attempts = CASE
                    WHEN pg_catalog.jsonb_array_length(attempts) >= {KEPT_ATTEMPTS} THEN attempts - 0
                    ELSE attempts
                END || pg_catalog.jsonb_build_object(
                    'number', retries + 1, 'at', %(now_us)s::bigint, 'worker_id', worker_id,
                    'error', given.attempt_error
                ),
                next_retry_at = CASE WHEN {is_final} THEN NULL ELSE given.at END,
                due_at = CASE WHEN {is_final} THEN scheduled_at ELSE coalesce(given.at, scheduled_at) END,
                attention_at = CASE WHEN {is_final} THEN NULL ELSE {late_after} END,
                dead_letter_at = CASE WHEN {is_final} THEN %(now)s::timestamptz ELSE dead_letter_at END,
                dead_letter_reason = CASE WHEN {is_final} THEN given.message ELSE dead_letter_reason END,
                publish_started_at = CASE WHEN given.keep_publish
                    THEN coalesce(publish_started_at, %(now)s) END,
                worker_id = NULL, lease_until = NULL, updated_at = %(now)s
            FROM unnest(
                %(ids)s::bigint[], %(claims)s::bigint[], %(errors)s::text[], %(attempt_errors)s::text[],
                %(ats)s::timestamptz[], %(finals)s::boolean[], %(keeps_publish)s::boolean[]
            ) AS given (job, fence, message, attempt_error, at, final, keep_publish)
            WHERE {given} AND {HELD} AND (
                NOT %(expired_only)s
                OR lease_until <= %(now)s AND (given.keep_publish OR publish_started_at IS NULL)
            )
            RETURNING {JOB_COLUMNS}
        """
        self.snooze_many = f"""
            UPDATE {self.table}
            SET status = {STATUS_BEFORE_CLAIM}, next_retry_at = given.at,
                due_at = coalesce(given.at, scheduled_at), attention_at = {late_after},
                publish_started_at = NULL, worker_id = NULL, lease_until = NULL, updated_at = %(now)s
            FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(ats)s::timestamptz[])
                AS given (job, fence, at)
            WHERE {given} AND {HELD}
            RETURNING {JOB_COLUMNS}
        """
        self.release_many = f"""
            UPDATE {self.table}
            SET status = {STATUS_BEFORE_CLAIM}, attention_at = {late_after}, publish_started_at = NULL,
                worker_id = NULL, lease_until = NULL, updated_at = %(now)s
            FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS given (job, fence)
            WHERE {given} AND {HELD}
            RETURNING {JOB_COLUMNS}
        """
        self.begin_publish_many = f"""
            UPDATE {self.table}
            SET publish_started_at = coalesce(publish_started_at, %(now)s), updated_at = %(now)s
            FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS given (job, fence)
            WHERE {given} AND {HELD} AND lease_until > %(now)s
            RETURNING {JOB_COLUMNS}
        """
        self.extend_many = f"""
            UPDATE {self.table}
            SET lease_until = %(lease_until)s, attention_at = %(lease_until)s, updated_at = %(now)s
            FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS given (job, fence)
            WHERE {given} AND {HELD} AND lease_until > %(now)s
            RETURNING {JOB_COLUMNS}
        """

    def claim(self, *, of_platforms: bool, unless_overdue: bool, limit: int) -> str:
        """The limit is a literal, since the plan of a prepared statement depends on it."""
        platforms = self.of_platforms if of_platforms else ""
        # Not EXISTS: the planner may choose a table scan for it, expecting to find a row early.
        nothing_is_overdue = f"""
            AND (
                SELECT id FROM {self.table}
                WHERE attention_at <= %(now)s
                    AND (status = 'processing' OR {WAITING} AND due_at <= %(now)s
                        AND attention_at < %(now)s {platforms})
                ORDER BY attention_at LIMIT 1
            ) IS NULL
        """
        return f"""
            UPDATE {self.table}
            SET status = 'processing', claim = claim + 1, worker_id = %(worker_id)s,
                lease_until = %(lease_until)s, attention_at = %(lease_until)s, updated_at = %(now)s
            WHERE id = ANY(ARRAY(
                SELECT id FROM {self.table}
                WHERE {WAITING} AND due_at <= %(now)s AND (attention_at IS NULL OR attention_at >= %(now)s)
                    {platforms} {self.not_paused} {nothing_is_overdue if unless_overdue else ""}
                ORDER BY due_at, id LIMIT {limit:d} FOR UPDATE SKIP LOCKED
            ))
            RETURNING {JOB_COLUMNS}
        """


class PostgresJobStore(PostgresCounts, SqlJobStore):
    """A `JobStore`."""

    _sql: PostgresJobStatements

    def __init__(self, backend: BackendBase, database: PostgresWork) -> None:
        super().__init__(backend, database)
        self._postgres = database
        self._sql = database.dialect.statements(PostgresJobStatements)
        self._schema = database.dialect.schema
        self._table = f"{database.dialect.quoted_schema}.assistly_queue_jobs"
        self._channel = database.server.wakeups.channel

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        if len(drafts) == 1:
            return [self._insert_one(drafts[0], now)]
        jobs: list[Job | None] = []
        if len(drafts) >= WORTH_COPYING and all(draft.idempotency_key is None for draft in drafts):
            jobs += self._postgres.in_transaction(
                lambda executor: copy_jobs(executor, self._sql, self._table, drafts, now)
            )
        else:
            jobs += self._insert_many(drafts, now)
        self._notify(jobs)
        return jobs

    def save(self, job: Job) -> None:
        super().save(job)
        self._notify([job])

    def claim(
        self,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        unless_overdue: bool = False,
    ) -> Sequence[Job]:
        statement = self._sql.claim(
            of_platforms=platforms is not None, unless_overdue=unless_overdue, limit=limit
        )
        params: dict[str, Any] = {"worker_id": worker_id, "lease_until": lease_until, "now": now}
        if platforms is not None:
            params["platforms"] = list(platforms)
        jobs = [self._job(row) for row in self._database.returning(statement, params)]
        jobs.sort(key=_in_order)
        return jobs

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        if not claims:
            return []
        ids, fences = zip(*sorted(set(claims)), strict=True)
        params = {"ids": [*ids], "claims": [*fences], "lease_until": lease_until, "now": now}
        rows = self._postgres.autocommit(
            lambda executor: executor.batch(len(ids), self._sql.extend_many, params)
        )
        jobs = map(self._job, rows)
        return sorted(jobs, key=attrgetter("id"))

    def begin_publish_many(self, claims: Sequence[tuple[int, int]], *, now: datetime) -> Sequence[Job | None]:
        ids, fences = zip(*sorted(claims), strict=True)
        params = {"ids": [*ids], "claims": [*fences], "now": now}
        rows = self._postgres.autocommit(
            lambda executor: executor.batch(len(ids), self._sql.begin_publish_many, params)
        )
        begun = {(job.id, job.claim): job for job in map(self._job, rows)}
        return [begun.get(claim) for claim in claims]

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        if len(settlements) == 1 and settlements[0].kind == "posted":
            return [self._post(settlements[0], now)]
        jobs = self._settle_many(settlements, now, expired_only)
        self._notify(jobs)
        return jobs

    def replay_many(
        self,
        *,
        platform: str | None,
        limit: int | None,
        unknown: bool,
        missed: bool,
        scheduled_at: datetime,
        now: datetime,
    ) -> int:
        statement = self._sql.replay_many(
            of_platform=platform is not None, limit=limit, unknown=unknown, missed=missed
        )
        params: dict[str, Any] = {"scheduled_at": scheduled_at, "now": now}
        if platform is not None:
            params["platform"] = platform

        def work(executor: PostgresExecutor) -> int:
            executor.limit.allow(sys.maxsize if limit is None else limit)
            return executor.execute(statement, params)

        count = self._postgres.autocommit(work)
        if count and scheduled_at - now <= _SOON:
            self._postgres.notify_of_jobs()
        return count

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        if not self._postgres.sees_later_commits():
            raise InvalidValue(
                "min_gap needs a READ COMMITTED transaction: with the isolation level of this connection, "
                "jobs that others have just scheduled are not visible"
            )
        keys = sorted({lock_key("platform", self._schema, platform) for platform in platforms})
        self._database.select(self._sql.lock_platforms, {"keys": keys})

    def next_due_at(
        self, *, platforms: Sequence[str] | None = None, now: datetime | None = None
    ) -> datetime | None:
        self._postgres.server.wakeups.mark_seen()
        return super().next_due_at(platforms=platforms, now=now)

    def _insert_one(self, draft: JobDraft, now: datetime) -> Job | None:
        is_soon = draft.scheduled_at - now <= _SOON
        notify = is_soon and self._postgres.may_notify_at_once()
        params = {
            "platform": draft.platform,
            "content": draft.content,
            "metadata": draft.metadata,
            "scheduled_at": draft.scheduled_at,
            "max_retries": draft.max_retries,
            "max_lateness": in_microseconds(draft.max_lateness),
            "idempotency_key": draft.idempotency_key,
            "now": now,
            "notify": notify,
            "channel": self._channel,
        }
        rows = self._database.returning(self._sql.insert, params)
        if not rows:
            return None
        if is_soon and not notify:
            self._postgres.notify_of_jobs()
        return transitions.new(draft, rows[0][0], now)

    def _insert_many(self, drafts: Sequence[JobDraft], now: datetime) -> list[Job | None]:
        batches = [*chunks(drafts, lambda draft: len(draft.content) + len(draft.metadata))]

        def work(executor: PostgresExecutor) -> list[Row]:
            return [
                row
                for batch in batches
                for row in executor.batch(
                    len(batch),
                    self._sql.insert_many,
                    {"drafts": drafts_json(batch), "now": now, "jobs": self._table},
                )
            ]

        rows = self._postgres.autocommit(work) if len(batches) == 1 else self._postgres.in_transaction(work)
        return [
            None if id is None else transitions.new(draft, id, now)
            for id, draft in zip(ids_of(drafts, sorted(rows)), drafts, strict=True)
        ]

    def _post(self, settlement: Settlement, now: datetime) -> Job | None:
        params = {
            "id": settlement.job.id,
            "claim": settlement.job.claim,
            "remote_id": settlement.remote_id,
            "now": now,
        }
        rows = self._database.returning(self._sql.post, params)
        return self._job(rows[0]) if rows else None

    def _settle_many(
        self, settlements: Sequence[Settlement], now: datetime, expired_only: bool
    ) -> list[Job | None]:
        """Settle with one statement for each kind. The second settlement of a claim gets None."""
        places: dict[tuple[int, int], int] = {}
        groups: defaultdict[str, list[Settlement]] = defaultdict(list)
        for place, one in enumerate(settlements):
            if places.setdefault((one.id, one.claim), place) == place:
                groups[one.kind].append(one)
        steps = [self._settle_step(kind, group, now, expired_only) for kind, group in sorted(groups.items())]

        def work(executor: PostgresExecutor) -> list[Row]:
            return [
                row
                for statement, params in steps
                for row in executor.batch(len(params["ids"]), statement, params)
            ]

        rows = self._postgres.autocommit(work) if len(steps) == 1 else self._postgres.in_transaction(work)
        jobs: list[Job | None] = [None] * len(settlements)
        for job in map(self._job, rows):
            jobs[places[job.id, job.claim]] = job
        return jobs

    def _settle_step(
        self, kind: str, group: list[Settlement], now: datetime, expired_only: bool
    ) -> tuple[str, dict[str, Any]]:
        """The statement and parameters for one kind. Rows are locked by id, to avoid deadlocks."""
        sql = self._sql
        group.sort(key=lambda one: one.id)
        params: dict[str, Any] = {
            "now": now,
            "ids": [one.id for one in group],
            "claims": [one.claim for one in group],
        }
        if kind == "posted":
            return sql.post_many, params | {"remote_ids": [one.remote_id for one in group]}
        if kind == "released":
            return sql.release_many, params
        params["ats"] = [one.at for one in group]
        if kind == "snoozed":
            return sql.snooze_many, params
        return sql.fail_many, params | {
            "now_us": to_microseconds(now),
            "errors": [one.error for one in group],
            "attempt_errors": [one.error[:ATTEMPT_ERROR_LENGTH] for one in group],
            "finals": [one.final for one in group],
            "keeps_publish": [one.keep_publish for one in group],
            "expired_only": expired_only,
        }

    def _notify(self, jobs: Iterable[Job | None]) -> None:
        """Wake waiting workers if one of these jobs, which have just changed, is due soon."""
        if any(
            job is not None and job.status in transitions.WAITING and job.due_at - job.updated_at <= _SOON
            for job in jobs
        ):
            self._postgres.notify_of_jobs()
