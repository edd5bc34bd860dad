"""The queue, except `insert`, `claim`, `extend` and `settle`, which each engine has in its own SQL."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from ... import transitions
from ...engine.base import BackendBase, JobStoreBase
from ...engine.values import PAUSES
from ...errors import StorageCorrupt
from ...records import Attempt, Job, JobStatus
from ...validation import canonical
from .conditions import PROCESSING, WAITING, is_missed
from .counts import SqlCounts
from .database import Database, Row
from .dialect import Dialect
from .store import from_microseconds, to_microseconds

JOB_FIELDS = [field.name for field in fields(Job)]
JOB_COLUMNS = ", ".join(JOB_FIELDS)
"""The columns that `SqlJobStore._job` decodes: the fields of a job, in their order."""

# Written so that the planner cannot use a partial index on active jobs, where looking up an id would walk
# past the entries of all jobs settled since the last vacuum. It uses the primary key instead.
HELD = "CASE status WHEN 'processing' THEN TRUE ELSE FALSE END"
STATUS_BEFORE_CLAIM = "CASE WHEN retries > 0 THEN 'retrying' ELSE 'scheduled' END"

# Few jobs have one of these statuses: they are found by the partial index, whatever the statistics say.
_FEW = {
    JobStatus.SCHEDULED: WAITING,
    JobStatus.RETRYING: WAITING,
    JobStatus.PROCESSING: PROCESSING,
}
_STATUSES = {str(status): status for status in JobStatus}


class JobStatements:
    """The statements on jobs. The column `attention_at` holds the result of `transitions.check_at`."""

    def __init__(self, d: Dialect) -> None:
        self._d = d
        p = d.p
        self.table = table = f"{d.t}queue_jobs"
        self.select = f"SELECT {JOB_COLUMNS} FROM {table}"
        self.of_platform = f"AND platform = {p.platform}"
        self.of_platforms = f"AND platform {d.among_list('platforms')}"
        self.is_due = f"{WAITING} AND due_at <= {p.now}"
        self.is_late = f"{self.is_due} AND attention_at < {p.now}"
        self.is_expired = f"status = 'processing' AND attention_at <= {p.now}"
        self.is_leased = f"id = {p.id} AND claim = {p.claim} AND {HELD} AND lease_until > {p.now}"

        self.get = f"{self.select} WHERE id = {p.id}"
        self.get_locked = f"{self.get} {d.for_update}"
        self.by_key = f"{self.select} WHERE idempotency_key = {p.idempotency_key}"
        self.in_window = f"""
            {self.select}
            WHERE {d.active} AND platform = {p.platform} AND scheduled_at BETWEEN {p.earliest} AND {p.latest}
                AND id <> {p.exclude}
            ORDER BY scheduled_at, id LIMIT 1
        """
        changes = ", ".join(f"{name} = {getattr(p, name)}" for name in (*JOB_FIELDS, "attention_at"))
        self.save = f"UPDATE {table} SET {changes} WHERE id = {p.id}"
        self.remove = f"DELETE FROM {table} WHERE id = {p.id}"
        self.count_backlog = f"""
            SELECT status, {d.f}count(*) FROM {table} WHERE {WAITING} GROUP BY status
            UNION ALL SELECT 'processing', {d.f}count(*) FROM {table} WHERE {PROCESSING}
            UNION ALL SELECT 'dead_letter', {d.f}count(*) FROM {table} WHERE status = 'dead_letter'
            UNION ALL SELECT 'cancelled', {d.f}count(*) FROM {table} WHERE status = 'cancelled'
        """
        self.counts = f"""
            {self.count_backlog}
            UNION ALL SELECT 'posted', {d.f}count(*) FROM {table} WHERE status = 'posted'
        """
        self.set_replayed = f"""
            status = 'scheduled', scheduled_at = {p.scheduled_at}, due_at = {p.scheduled_at},
            attention_at = {p.scheduled_at}{d.timestamp} + max_lateness{d.microseconds}, retries = 0,
            replayed_at = {p.now}, updated_at = {p.now}, next_retry_at = NULL, last_error = NULL,
            dead_letter_at = NULL, dead_letter_reason = NULL, publish_started_at = NULL, checkpoint = NULL
        """
        self.until = f"AND due_at <= {p.until}"
        self.after_due = f"AND (due_at, id) > ({p.after_due}, {p.after_id})"
        self.first_due_at = f"SELECT due_at FROM {table} WHERE {WAITING}"
        pauses = f"FROM {d.t}documents WHERE collection = '{PAUSES}'"
        paused = f"{pauses} AND ({d.pause_end} IS NULL OR {d.pause_end} > {p.now})"
        self.not_paused = f"AND {d.matches_none('platform', 'key', paused)}"
        self.first_pause_end = f"SELECT {d.f}min({d.pause_end}) {pauses} AND {d.pause_end} > {p.now}"
        self.begin_publish = f"""
            UPDATE {table}
            SET publish_started_at = coalesce(publish_started_at, {p.now}), updated_at = {p.now}
            WHERE {self.is_leased}
            RETURNING {JOB_COLUMNS}
        """

    def list(self, status: JobStatus | None, *, of_platform: bool, limit: int) -> str:
        platform = self.of_platform if of_platform else ""
        after = self._d.p.after
        if status in _FEW:
            first = f"""
                SELECT id FROM {self.table}
                WHERE {_FEW[status]} AND status = '{status}' AND id + 0 > {after} {platform}
                ORDER BY id + 0 LIMIT {limit:d}
            """
            return f"{self.select} WHERE id {self._d.among(first)} ORDER BY id"
        of_status = "" if status is None else f"AND status = '{status}'"
        return f"{self.select} WHERE id > {after} {of_status} {platform} ORDER BY id LIMIT {limit:d}"

    def dead_letter_late(self, *, of_platforms: bool, limit: int) -> str:
        p = self._d.p
        first = f"""
            SELECT id FROM {self.table} WHERE {self.is_late} {self.of_platforms if of_platforms else ""}
            ORDER BY attention_at, id LIMIT {limit:d} {self._d.skip_locked}
        """
        return f"""
            UPDATE {self.table}
            SET status = 'dead_letter', dead_letter_at = {p.now}, dead_letter_reason = {p.reason},
                next_retry_at = NULL, due_at = scheduled_at, attention_at = NULL, updated_at = {p.now}
            WHERE id {self._d.among(first)}
            RETURNING {JOB_COLUMNS}
        """

    def replay_many(self, *, of_platform: bool, limit: int | None, unknown: bool, missed: bool) -> str:
        d = self._d
        first = f"""
            SELECT id FROM {self.table}
            WHERE status = 'dead_letter' {self.of_platform if of_platform else ""}
                {"" if unknown else "AND publish_started_at IS NULL"}
                {"" if missed else f"AND NOT coalesce({is_missed(d)}, FALSE)"}
            ORDER BY id {"" if limit is None else f"LIMIT {limit:d}"} {d.for_update}
        """
        return f"UPDATE {self.table} SET {self.set_replayed} WHERE id {d.among(first)}"


class SqlJobStore(SqlCounts, JobStoreBase[BackendBase], ABC):
    """A `JobStore`, except `insert`, `claim`, `extend` and `settle`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(JobStatements)

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        params = {
            "platform": platform,
            "earliest": self._bind(earliest),
            "latest": self._bind(latest),
            "exclude": 0 if exclude is None else exclude,
        }
        return self._select_one(self._sql.in_window, params, self._job)

    def by_key(self, idempotency_key: str) -> Job | None:
        return self._select_one(self._sql.by_key, {"idempotency_key": idempotency_key}, self._job)

    def get(self, id: int, *, lock: bool = False) -> Job | None:
        return self._select_one(self._sql.get_locked if lock else self._sql.get, {"id": id}, self._job)

    def save(self, job: Job) -> None:
        self._database.execute(self._sql.save, self._columns(job))

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        params: dict[str, Any] = {"after": after}
        if platform is not None:
            params["platform"] = platform
        statement = self._sql.list(status, of_platform=platform is not None, limit=limit)
        return self._select(statement, params, self._job)

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        statement = self._sql.counts if posted else self._sql.count_backlog
        return dict(self._select(statement, {}, lambda row: (_STATUSES[row[0]], row[1])))

    def remove(self, id: int) -> bool:
        return self._database.execute(self._sql.remove, {"id": id}) > 0

    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]:
        sql, conditions = self._sql, [WAITING]
        params = self._of_platforms(platforms)
        if platforms is not None:
            conditions.append(sql.of_platforms)
        if until is not None:
            conditions.append(sql.until)
            params["until"] = self._bind(until)
        if after is not None:
            conditions.append(sql.after_due)
            params.update(after_due=self._bind(after[0]), after_id=after[1])
        statement = f"{sql.select} WHERE {' '.join(conditions)} ORDER BY due_at, id LIMIT {limit:d}"
        return self._select(statement, params, self._job)

    def next_due_at(
        self, *, platforms: Sequence[str] | None = None, now: datetime | None = None
    ) -> datetime | None:
        sql = self._sql
        of_platforms = "" if platforms is None else sql.of_platforms
        params = self._of_platforms(platforms)
        if now is None:
            statement = f"{sql.first_due_at} {of_platforms} ORDER BY due_at, id LIMIT 1"
            return self._select_one(statement, params, lambda row: self._time(row[0]))
        first = f"{sql.first_due_at} {of_platforms} {sql.not_paused} ORDER BY due_at, id LIMIT 1"
        params["now"] = self._bind(now)
        ((due_at, pause_end),) = self._database.select(f"SELECT ({first}), ({sql.first_pause_end})", params)
        return min((self._time(time) for time in (due_at, pause_end) if time is not None), default=None)

    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]:
        sql = self._sql
        of_platforms = "" if platforms is None else sql.of_platforms
        statement = (
            f"{sql.select} WHERE {sql.is_late} {of_platforms} ORDER BY attention_at, id LIMIT {limit:d}"
        )
        params = {"now": self._bind(now), **self._of_platforms(platforms)}
        return self._select(statement, params, self._job)

    def dead_letter_late(
        self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime
    ) -> Sequence[Job]:
        params = {"reason": reason, "now": self._bind(now), **self._of_platforms(platforms)}
        statement = self._sql.dead_letter_late(of_platforms=platforms is not None, limit=limit)
        return [self._job(row) for row in self._database.returning(statement, params)]

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        statement = (
            f"{self._sql.select} WHERE {self._sql.is_expired} ORDER BY attention_at, id LIMIT {limit:d}"
        )
        return self._select(statement, {"now": self._bind(now)}, self._job)

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        params = {"id": id, "claim": claim, "now": self._bind(now)}
        return self._write_one(self._sql.begin_publish, params, self._job)

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
        params = {"scheduled_at": self._bind(scheduled_at), "now": self._bind(now)}
        if platform is not None:
            params["platform"] = platform
        return self._database.execute(statement, params)

    def wait(self, timeout: float) -> None:
        self._database.wait(timeout)

    def _of_platforms(self, platforms: Sequence[str] | None) -> dict[str, Any]:
        return {} if platforms is None else {"platforms": self._dialect.bind_list(platforms)}

    def _job(self, row: Row) -> Job:
        (
            id, status, platform, content, metadata, scheduled_at, created_at, updated_at, retries,
            max_retries, next_retry_at, due_at, idempotency_key, remote_id, posted_at, last_error,
            dead_letter_at, dead_letter_reason, replayed_at, claim, worker_id, lease_until,
            publish_started_at, max_lateness, attempts, checkpoint,
        ) = row  # fmt: skip
        known = _STATUSES.get(status)
        if known is None:
            raise StorageCorrupt(
                f"job {id} has the status {status!r}, and only {', '.join(JobStatus)} are valid"
            )
        time = self._time
        return Job(
            id,
            known,
            platform,
            content,
            self._json(metadata),
            time(scheduled_at),
            time(created_at),
            time(updated_at),
            retries,
            max_retries,
            None if next_retry_at is None else time(next_retry_at),
            time(due_at),
            idempotency_key,
            remote_id,
            None if posted_at is None else time(posted_at),
            last_error,
            None if dead_letter_at is None else time(dead_letter_at),
            dead_letter_reason,
            None if replayed_at is None else time(replayed_at),
            claim,
            worker_id,
            None if lease_until is None else time(lease_until),
            None if publish_started_at is None else time(publish_started_at),
            None if max_lateness is None else timedelta(microseconds=max_lateness),
            tuple(map(_attempt, self._json(attempts))),
            None if checkpoint is None else self._json(checkpoint),
        )

    def _columns(self, job: Job) -> dict[str, Any]:
        """The values of all columns of a job."""
        columns: dict[str, Any] = {}
        for name in JOB_FIELDS:
            value = getattr(job, name)
            columns[name] = self._bind(value) if isinstance(value, datetime) else value
        columns["status"] = str(job.status)
        columns["metadata"] = canonical("metadata", job.metadata)
        columns["max_lateness"] = in_microseconds(job.max_lateness)
        columns["attempts"] = json.dumps([_stored_attempt(attempt) for attempt in job.attempts])
        columns["checkpoint"] = None if job.checkpoint is None else canonical("checkpoint", job.checkpoint)
        columns["attention_at"] = self._bind(transitions.check_at(job))
        return columns


def in_microseconds(duration: timedelta | None) -> int | None:
    """The value of the column `max_lateness`."""
    return None if duration is None else duration // timedelta(microseconds=1)


def _attempt(stored: dict[str, Any]) -> Attempt:
    return Attempt(stored["number"], from_microseconds(stored["at"]), stored["worker_id"], stored["error"])


def _stored_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "at": to_microseconds(attempt.at),
        "worker_id": attempt.worker_id,
        "error": attempt.error,
    }
