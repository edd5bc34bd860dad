"""Inserting, claiming and settling jobs on SQLite."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from operator import itemgetter
from typing import Any

from ... import transitions
from ...engine.values import ATTEMPT_ERROR_LENGTH, JobDraft, Settlement
from ...records import Job, JobStatus
from ..sql.conditions import WAITING
from ..sql.database import Row
from ..sql.jobs import (
    HELD,
    JOB_COLUMNS,
    JOB_FIELDS,
    STATUS_BEFORE_CLAIM,
    JobStatements,
    SqlJobStore,
    in_microseconds,
)
from ..sql.store import to_microseconds
from .connections import Connection
from .counts import SqliteCounts
from .database import SqliteDatabase
from .dialect import DIALECT
from .transactions import PinnedConnection

_TAKE_WRITE_LOCK = "DELETE FROM assistly_retention WHERE id = 0"
MAKE_GAP_INDEX = f"""
    CREATE INDEX IF NOT EXISTS idx_queue_conflict ON assistly_queue_jobs (platform, scheduled_at)
    WHERE {DIALECT.active}
"""

# The highest id that is stored or was deleted. The row of the latter may have been lost.
NEWEST_ID = """
    max(
        coalesce((SELECT deleted_id FROM assistly_queue_newest WHERE one = 1), 0),
        coalesce((SELECT max(id) FROM assistly_queue_jobs), 0)
    )
"""
_NEXT_ID = f"SELECT {NEWEST_ID} + 1"
_INSERT = """
    INSERT INTO assistly_queue_jobs (
        id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, max_retries,
        max_lateness, attention_at, idempotency_key
    )
"""
_INSERT_ONE = f"""
    {_INSERT} VALUES (({_NEXT_ID}), 'scheduled', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
"""
_INSERT_MANY = f"{_INSERT} VALUES (?, 'scheduled', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TAKEN_KEYS = """
    SELECT idempotency_key FROM assistly_queue_jobs
    WHERE idempotency_key IN (SELECT value FROM json_each(:keys)) AND idempotency_key IS NOT NULL
"""

_BY_DUE_AT = itemgetter(JOB_FIELDS.index("due_at"), JOB_FIELDS.index("id"))
_OF_PLATFORMS = f"AND platform {DIALECT.among_list('platforms')}"
_NOT_PAUSED = DIALECT.statements(JobStatements).not_paused
_IS_LATE = f"{WAITING} AND due_at <= :now AND attention_at < :now"


def _claim(*, of_platforms: bool, unless_overdue: bool) -> str:
    platforms = _OF_PLATFORMS if of_platforms else ""
    nothing_is_overdue = f"""
        AND (
            SELECT id FROM assistly_queue_jobs
            WHERE attention_at <= :now AND (status = 'processing' OR {_IS_LATE} {platforms})
            ORDER BY attention_at LIMIT 1
        ) IS NULL
    """
    return f"""
        UPDATE assistly_queue_jobs
        SET status = 'processing', claim = claim + 1, worker_id = :worker_id,
            lease_until = :lease_until, attention_at = :lease_until, updated_at = :now
        WHERE id IN (
            SELECT id FROM assistly_queue_jobs
            WHERE {WAITING} AND due_at <= :now AND (attention_at IS NULL OR attention_at >= :now) {platforms}
                {_NOT_PAUSED}
                {nothing_is_overdue if unless_overdue else ""}
            ORDER BY due_at, id LIMIT :limit
        )
        RETURNING {JOB_COLUMNS}
    """


_CLAIM = {
    (of_platforms, unless_overdue): _claim(of_platforms=of_platforms, unless_overdue=unless_overdue)
    for of_platforms in (False, True)
    for unless_overdue in (False, True)
}

_IS_HELD = f"id = :id AND claim = :claim AND {HELD}"
_FREE = "worker_id = NULL, lease_until = NULL, updated_at = :now"
_EXTEND = f"""
    UPDATE assistly_queue_jobs
    SET lease_until = :lease_until, attention_at = :lease_until, updated_at = :now
    WHERE {_IS_HELD} AND lease_until > :now
    RETURNING {JOB_COLUMNS}
"""
_SET_POSTED = f"""
    status = 'posted', posted_at = :now, next_retry_at = NULL, due_at = scheduled_at, attention_at = NULL,
    checkpoint = NULL, {_FREE}
"""
_POST = f"""
    UPDATE assistly_queue_jobs SET {_SET_POSTED}, remote_id = :remote_id
    WHERE {_IS_HELD}
    RETURNING {JOB_COLUMNS}
"""
_POST_MANY = f"""
    UPDATE assistly_queue_jobs SET {_SET_POSTED}, remote_id = given_remote_id
    FROM (
        SELECT CAST(key AS INTEGER) AS given_id, value AS given_remote_id FROM json_each(:remote_ids)
    )
    WHERE id = given_id AND claim = :claim AND {HELD}
    RETURNING id, publish_started_at, metadata
"""
_IS_FINAL = "(:final OR retries + 1 >= max_retries)"
_APPEND_ATTEMPT = """json_insert(
    CASE WHEN json_array_length(attempts) < 20 THEN attempts ELSE json_remove(attempts, '$[0]') END,
    '$[#]',
    json_object('number', retries + 1, 'at', :now, 'worker_id', worker_id, 'error', :attempt_error)
)"""
_FAIL = f"""
    UPDATE assistly_queue_jobs
    SET status = CASE WHEN {_IS_FINAL} THEN 'dead_letter' ELSE 'retrying' END,
        retries = retries + 1, last_error = :error, attempts = {_APPEND_ATTEMPT},
        next_retry_at = CASE WHEN {_IS_FINAL} THEN NULL ELSE :at END,
        due_at = CASE WHEN {_IS_FINAL} THEN scheduled_at ELSE coalesce(:at, scheduled_at) END,
        attention_at = CASE WHEN {_IS_FINAL} THEN NULL ELSE scheduled_at + max_lateness END,
        dead_letter_at = CASE WHEN {_IS_FINAL} THEN :now ELSE dead_letter_at END,
        dead_letter_reason = CASE WHEN {_IS_FINAL} THEN :error ELSE dead_letter_reason END,
        publish_started_at = CASE WHEN :keep_publish THEN coalesce(publish_started_at, :now) END,
        {_FREE}
    WHERE {_IS_HELD}
        AND (NOT :expired_only OR lease_until <= :now AND (:keep_publish OR publish_started_at IS NULL))
    RETURNING {JOB_COLUMNS}
"""
_SNOOZE = f"""
    UPDATE assistly_queue_jobs
    SET status = {STATUS_BEFORE_CLAIM}, next_retry_at = :at, due_at = coalesce(:at, scheduled_at),
        attention_at = scheduled_at + max_lateness, publish_started_at = NULL, {_FREE}
    WHERE {_IS_HELD}
    RETURNING {JOB_COLUMNS}
"""
_RELEASE = f"""
    UPDATE assistly_queue_jobs
    SET status = {STATUS_BEFORE_CLAIM}, attention_at = scheduled_at + max_lateness,
        publish_started_at = NULL, {_FREE}
    WHERE {_IS_HELD}
    RETURNING {JOB_COLUMNS}
"""
_SETTLE = {"posted": _POST, "failed": _FAIL, "snoozed": _SNOOZE, "released": _RELEASE}


class SqliteJobStore(SqliteCounts, SqlJobStore):
    """A `JobStore`."""

    _database: SqliteDatabase | PinnedConnection

    def prepare_gap_checks(self) -> None:
        """Create the index on first use: it makes each insert a fifth slower (docs/decisions/0015)."""
        self._database.read(lambda connection: connection.execute(MAKE_GAP_INDEX))

    def lock_platforms(self, platforms: Sequence[str]) -> None:  # noqa: ARG002  (the lock is the file's)
        self._database.execute(_TAKE_WRITE_LOCK, {})

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        if len(drafts) == 1:
            (draft,) = drafts
            id = self._database.insert(_INSERT_ONE, _values(draft, to_microseconds(now)))
            return [transitions.new(draft, id, now) if id else None]
        return self._insert_many([*drafts], now)

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
        params = {
            "worker_id": worker_id,
            "lease_until": self._bind(lease_until),
            "now": self._bind(now),
            "limit": limit,
            **self._of_platforms(platforms),
        }
        rows = self._database.returning(_CLAIM[platforms is not None, unless_overdue], params)
        rows.sort(key=_BY_DUE_AT)
        return [self._job(row) for row in rows]

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        times = {"lease_until": self._bind(lease_until), "now": self._bind(now)}

        def work(connection: Connection) -> list[Row | None]:
            return [
                connection.row(_EXTEND, {"id": id, "claim": claim, **times})
                for id, claim in sorted(set(claims))
            ]

        return [self._job(row) for row in self._database.in_transaction(work) if row is not None]

    def begin_publish_many(self, claims: Sequence[tuple[int, int]], *, now: datetime) -> Sequence[Job | None]:
        at = to_microseconds(now)

        def work(connection: Connection) -> list[Row | None]:
            return [
                connection.row(self._sql.begin_publish, {"id": id, "claim": claim, "now": at})
                for id, claim in claims
            ]

        rows = self._database.in_transaction(work)
        return [None if row is None else self._job(row) for row in rows]

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        """Settle a batch: posted jobs with one statement for each claim number (mostly 1), others singly."""
        if len(settlements) == 1:
            (one,) = settlements
            params = _end_of_claim(one, now, expired_only)
            return [self._write_one(_SETTLE[one.kind], params, self._job)]
        places: dict[tuple[int, int], int] = {}
        posted: defaultdict[int, dict[int, str | None]] = defaultdict(dict)
        others: list[Settlement] = []
        for place, one in enumerate(settlements):
            fence = one.job.id, one.job.claim
            if places.setdefault(fence, place) != place:
                continue
            if one.kind == "posted":
                posted[fence[1]][fence[0]] = one.remote_id
            else:
                others.append(one)
        results: list[Job | None] = [None] * len(settlements)

        def work(connection: Connection) -> None:
            for claim, remote_ids in posted.items():
                given = json.dumps(remote_ids, ensure_ascii=False)
                params = {"claim": claim, "remote_ids": given, "now": to_microseconds(now)}
                for id, publish_started_at, metadata in connection.rows(_POST_MANY, params):
                    place = places[id, claim]
                    results[place] = self._posted(settlements[place], now, publish_started_at, metadata)
            for one in others:
                params = _end_of_claim(one, now, expired_only)
                for row in connection.rows(_SETTLE[one.kind], params):
                    results[places[one.id, one.claim]] = self._job(row)

        run = self._database.autocommit if len(posted) + len(others) == 1 else self._database.in_transaction
        run(work)
        return results

    def _posted(self, one: Settlement, now: datetime, publish_started_at: int | None, metadata: str) -> Job:
        """The posted job. Most fields are copied from the holder's record: reading all doubles the time."""
        job = one.job
        return Job(
            job.id,
            JobStatus.POSTED,
            job.platform,
            job.content,
            self._json(metadata),
            job.scheduled_at,
            job.created_at,
            now,
            job.retries,
            job.max_retries,
            None,
            job.scheduled_at,
            job.idempotency_key,
            one.remote_id,
            now,
            job.last_error,
            job.dead_letter_at,
            job.dead_letter_reason,
            job.replayed_at,
            job.claim,
            None,
            None,
            self._optional_time(publish_started_at),
            job.max_lateness,
            job.attempts,
        )

    def _insert_many(self, drafts: Sequence[JobDraft], now: datetime) -> list[Job | None]:
        """Insert several drafts. The transaction excludes other writers, so free keys stay free, and ids are
        consecutive."""
        at = to_microseconds(now)

        def work(connection: Connection) -> dict[int, int]:
            free = self._free(connection, drafts)
            ((next_id,),) = connection.rows(_NEXT_ID)
            ids = dict(zip(free, count(next_id), strict=False))
            connection.execute_many(
                _INSERT_MANY, [(id, *_values(drafts[place], at)) for place, id in ids.items()]
            )
            return ids

        ids = self._database.in_transaction(work)
        return [
            transitions.new(draft, ids[place], now) if place in ids else None
            for place, draft in enumerate(drafts)
        ]

    def _free(self, connection: Connection, drafts: Sequence[JobDraft]) -> list[int]:
        """The indexes of the drafts whose keys are not taken, in the table or earlier in the batch."""
        keys = {
            draft.idempotency_key: place
            for place, draft in reversed([*enumerate(drafts)])
            if draft.idempotency_key is not None
        }
        if keys:
            params = {"keys": json.dumps([*keys], ensure_ascii=False)}
            for (taken,) in connection.rows(_TAKEN_KEYS, params):
                del keys[taken]
        return [
            place
            for place, draft in enumerate(drafts)
            if draft.idempotency_key is None or keys.get(draft.idempotency_key) == place
        ]


def _values(draft: JobDraft, now: int) -> tuple[Any, ...]:
    at = to_microseconds(draft.scheduled_at)
    lateness = in_microseconds(draft.max_lateness)
    return (
        draft.platform,
        draft.content,
        draft.metadata,
        at,
        at,
        now,
        now,
        draft.max_retries,
        lateness,
        None if lateness is None else at + lateness,
        draft.idempotency_key,
    )


def _end_of_claim(one: Settlement, now: datetime, expired_only: bool) -> dict[str, Any]:
    """The parameters of the statements that settle one job. Each uses some of them."""
    return {
        "id": one.id,
        "claim": one.claim,
        "now": to_microseconds(now),
        "remote_id": one.remote_id,
        "error": one.error,
        "attempt_error": one.error[:ATTEMPT_ERROR_LENGTH],
        "at": DIALECT.bind_time(one.at),
        "final": one.final,
        "keep_publish": one.keep_publish,
        "expired_only": expired_only,
    }
