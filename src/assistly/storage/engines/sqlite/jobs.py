"""The queue in few statements: batches travel whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from ...backend import JobDraft, Settlement
from ...errors import StorageCorrupt
from ...records import Attempt, Job, JobStatus
from ...validation import EMPTY_OBJECT
from ..sql.database import Row
from ..sql.jobs import SETTLE_HELD, SqlJobStore, in_microseconds
from ..sql.new_jobs import make_job, new_job
from ..sql.store import to_microseconds
from .connections import Connection
from .dialect import moment
from .work import SqliteWork

_TAKE_WRITE_LOCK = "DELETE FROM {t}retention WHERE id = 0"

_INSERT = """
INSERT INTO {t}queue_jobs (
    id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
    max_retries, max_lateness, late_after, idempotency_key
) VALUES (?, 'scheduled', ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)
"""
# A parameter that is None takes 0.7 us more than a number: the driver looks for an adapter.
_INSERT_PLAIN = """
INSERT INTO {t}queue_jobs (
    status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
    max_retries
) VALUES ('scheduled', ?, ?, ?, ?, ?, ?, ?, 0, ?)
"""
_INSERT_NEW_KEY = f"{_INSERT} ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"
_TAKEN = """
SELECT idempotency_key FROM {t}queue_jobs
WHERE idempotency_key IN (SELECT value FROM json_each(:keys)) AND idempotency_key IS NOT NULL
"""

_HELD = """
SELECT id, claim, platform, content, metadata, scheduled_at, created_at, retries, max_retries,
    idempotency_key, last_error, dead_letter_at, dead_letter_reason, replayed_at, publish_started_at,
    max_lateness, attempts
FROM {t}queue_jobs WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 'processing'
"""
_POST = """
UPDATE {t}queue_jobs SET status = 'posted', posted_at = :now, next_retry_at = NULL, due_at = scheduled_at,
    worker_id = NULL, lease_until = NULL, updated_at = :now, remote_id =
"""
_POST_WITHOUT_IDS = f"{_POST} NULL WHERE id IN (SELECT value FROM json_each(:ids))"
_POST_WITH_IDS = f"""{_POST} given.value FROM json_each(:ids) AS given
WHERE {{t}}queue_jobs.id = CAST(given.key AS INTEGER)
"""

_STATUSES = {str(status): status for status in JobStatus}


class SqliteJobStore(SqlJobStore):
    def __init__(self, database: SqliteWork) -> None:
        super().__init__(database)
        self._sqlite = database
        self._insert_plain = self._render(_INSERT_PLAIN)

    def lock_platforms(self, platforms: Sequence[str]) -> None:  # noqa: ARG002  (the lock is the file's)
        statement = self._render(_TAKE_WRITE_LOCK)
        self._database.single(lambda connection: connection.execute(statement))

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        if len(drafts) == 1:
            return [self._insert_one(drafts[0], now)]
        return self._insert_many([*drafts], now)

    def _claimed(self, row: Row, worker_id: str, lease_until: datetime, now: datetime) -> Job:
        (
            due_at, id, platform, content, metadata, scheduled_at, created_at, retries, max_retries,
            next_retry_at, idempotency_key, remote_id, posted_at, last_error, dead_letter_at,
            dead_letter_reason, replayed_at, claim, publish_started_at, max_lateness, attempts,
        ) = row  # fmt: skip
        return make_job(
            id,
            JobStatus.PROCESSING,
            platform,
            content,
            {} if metadata == EMPTY_OBJECT else json.loads(metadata),
            moment(scheduled_at),
            moment(created_at),
            now,
            retries,
            max_retries,
            None if next_retry_at is None else moment(next_retry_at),
            moment(due_at),
            idempotency_key,
            remote_id,
            None if posted_at is None else moment(posted_at),
            last_error,
            None if dead_letter_at is None else moment(dead_letter_at),
            dead_letter_reason,
            None if replayed_at is None else moment(replayed_at),
            claim,
            worker_id,
            lease_until,
            None if publish_started_at is None else moment(publish_started_at),
            None if max_lateness is None else timedelta(microseconds=max_lateness),
            () if attempts == "[]" else _attempts(attempts),
        )

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        if len(settlements) == 1 or expired_only:
            return super().settle(settlements, now=now, expired_only=expired_only)
        return self._settle_many(settlements, now)

    def _insert_one(self, draft: JobDraft, now: datetime) -> Job | None:
        if draft.idempotency_key is None and draft.max_lateness is None:
            return self._insert_one_plain(draft, now)
        statement = self._render(_INSERT if draft.idempotency_key is None else _INSERT_NEW_KEY)
        values = self._values(None, draft, self._bind(now))
        id = self._sqlite.single(lambda connection: connection.insert(statement, values))
        return new_job(id, draft, now) if id else None

    def _insert_one_plain(self, draft: JobDraft, now: datetime) -> Job:
        written = to_microseconds(now)
        at = written if draft.scheduled_at is now else to_microseconds(draft.scheduled_at)
        values = (
            draft.platform, draft.content, draft.metadata, at, at, written, written, draft.max_retries
        )  # fmt: skip
        id = self._sqlite.single(lambda connection: connection.insert(self._insert_plain, values))
        return new_job(id, draft, now)

    def _insert_many(self, drafts: Sequence[JobDraft], now: datetime) -> list[Job | None]:
        """Nobody else writes meanwhile: keys that are free stay free, and ids follow each other."""
        statement, at = self._render(_INSERT), self._bind(now)

        def work(connection: Connection) -> dict[int, int]:
            free = self._free(connection, drafts)
            if not free:
                return {}
            first_id = connection.insert(statement, self._values(None, drafts[free[0]], at))
            ids = dict(zip(free, count(first_id), strict=False))
            rows = [self._values(ids[place], drafts[place], at) for place in free[1:]]
            connection.execute_many(statement, rows)
            return ids

        ids = self._sqlite.write(work)
        return [
            new_job(ids[place], draft, now) if place in ids else None for place, draft in enumerate(drafts)
        ]

    def _free(self, connection: Connection, drafts: Sequence[JobDraft]) -> list[int]:
        """The places of the drafts whose keys are not taken, in the table or earlier in the batch."""
        keys = {
            draft.idempotency_key: place
            for place, draft in reversed([*enumerate(drafts)])
            if draft.idempotency_key is not None
        }
        if keys:
            for (taken,) in connection.rows(self._render(_TAKEN), {"keys": _json([*keys])}):
                del keys[taken]
        return [
            place
            for place, draft in enumerate(drafts)
            if draft.idempotency_key is None or keys.get(draft.idempotency_key) == place
        ]

    def _values(self, id: int | None, draft: JobDraft, now: int) -> Row:
        at = self._bind(draft.scheduled_at)
        lateness = in_microseconds(draft.max_lateness)
        return (
            id,
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

    def _settle_many(self, settlements: Sequence[Settlement], now: datetime) -> list[Job | None]:
        places: dict[tuple[int, int], int] = {}
        for place, settlement in enumerate(settlements):
            places.setdefault((settlement.id, settlement.claim), place)
        posted = {
            fence: settlements[place]
            for fence, place in places.items()
            if settlements[place].kind == "posted"
        }
        others = [
            (
                place,
                self._render(SETTLE_HELD[settlements[place].kind]),
                self._outcome(settlements[place], now),
            )
            for fence, place in places.items()
            if fence not in posted
        ]

        def work(connection: Connection) -> list[Job | None]:
            jobs: list[Job | None] = [None] * len(settlements)
            for job in self._post(connection, posted, now):
                jobs[places[job.id, job.claim]] = job
            for place, statement, params in others:
                jobs[place] = self._job_or_none(connection.row(statement, params))
            return jobs

        return self._sqlite.write(work)

    def _post(
        self, connection: Connection, posted: Mapping[tuple[int, int], Settlement], now: datetime
    ) -> list[Job]:
        """Read and written, which is cheaper than to have the new rows returned."""
        ids = _json([id for id, _ in posted])
        rows = connection.rows(self._render(_HELD), {"ids": ids})
        held = [(row, settlement) for row in rows if (settlement := posted.get(row[:2]))]
        if not held:
            return []
        remote_ids = {settlement.id: settlement.remote_id for _, settlement in held}
        if any(remote_ids.values()):
            statement, given = _POST_WITH_IDS, _json(remote_ids)
        else:
            statement, given = _POST_WITHOUT_IDS, _json([*remote_ids])
        connection.execute(self._render(statement), {"now": self._bind(now), "ids": given})
        return [_posted(row, settlement.remote_id, now) for row, settlement in held]

    def _job(self, row: Row) -> Job:
        (
            id, status, platform, content, metadata, scheduled_at, created_at, updated_at, retries,
            max_retries, next_retry_at, due_at, idempotency_key, remote_id, posted_at, last_error,
            dead_letter_at, dead_letter_reason, replayed_at, claim, worker_id, lease_until,
            publish_started_at, max_lateness, attempts,
        ) = row  # fmt: skip
        known = _STATUSES.get(status)
        if known is None:
            raise StorageCorrupt(f"the job {id} has the status {status!r}, which is none of the queue's")
        return make_job(
            id,
            known,
            platform,
            content,
            {} if metadata == EMPTY_OBJECT else json.loads(metadata),
            moment(scheduled_at),
            moment(created_at),
            moment(updated_at),
            retries,
            max_retries,
            None if next_retry_at is None else moment(next_retry_at),
            moment(due_at),
            idempotency_key,
            remote_id,
            None if posted_at is None else moment(posted_at),
            last_error,
            None if dead_letter_at is None else moment(dead_letter_at),
            dead_letter_reason,
            None if replayed_at is None else moment(replayed_at),
            claim,
            worker_id,
            None if lease_until is None else moment(lease_until),
            None if publish_started_at is None else moment(publish_started_at),
            None if max_lateness is None else timedelta(microseconds=max_lateness),
            () if attempts == "[]" else _attempts(attempts),
        )


def _posted(row: Row, remote_id: str | None, now: datetime) -> Job:
    (
        id, claim, platform, content, metadata, scheduled_at, created_at, retries, max_retries,
        idempotency_key, last_error, dead_letter_at, dead_letter_reason, replayed_at, publish_started_at,
        max_lateness, attempts,
    ) = row  # fmt: skip
    due_at = moment(scheduled_at)
    return make_job(
        id,
        JobStatus.POSTED,
        platform,
        content,
        {} if metadata == EMPTY_OBJECT else json.loads(metadata),
        due_at,
        moment(created_at),
        now,
        retries,
        max_retries,
        None,
        due_at,
        idempotency_key,
        remote_id,
        now,
        last_error,
        None if dead_letter_at is None else moment(dead_letter_at),
        dead_letter_reason,
        None if replayed_at is None else moment(replayed_at),
        claim,
        None,
        None,
        None if publish_started_at is None else moment(publish_started_at),
        None if max_lateness is None else timedelta(microseconds=max_lateness),
        () if attempts == "[]" else _attempts(attempts),
    )


def _attempts(stored: str) -> tuple[Attempt, ...]:
    return tuple(map(_attempt, json.loads(stored)))


def _attempt(stored: dict[str, Any]) -> Attempt:
    return Attempt(stored["number"], moment(stored["at"]), stored["worker_id"], stored["error"])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
