"""The queue in few statements: batches travel whole."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from ...engine.values import JobDraft, Settlement
from ...errors import StorageCorrupt
from ...records import Attempt, Job, JobStatus
from ...validation import EMPTY_OBJECT
from ..sql.database import Row
from ..sql.jobs import SETTLE_HELD, SqlJobStore, in_microseconds
from ..sql.new_jobs import make_job, new_job, posted_job
from ..sql.store import to_microseconds
from .connections import Connection
from .dialect import moment
from .work import SqliteWork

_TAKE_WRITE_LOCK = "DELETE FROM {t}retention WHERE id = 0"
_INDEX_FOR_GAPS = """
CREATE INDEX IF NOT EXISTS idx_queue_conflict ON {t}queue_jobs (platform, scheduled_at) WHERE {active}
"""

# After the newest there is, and after the newest there was.
_NEXT_ID = """(
    SELECT max(deleted_id, coalesce((SELECT max(id) FROM {t}queue_jobs), 0)) + 1
    FROM {t}queue_newest WHERE one = 1
)"""
_INSERT = """
INSERT INTO {t}queue_jobs (
    id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
    max_retries, max_lateness, attention_at, idempotency_key
) VALUES (?, 'scheduled', ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)
"""
_INSERT_NEXT = _INSERT.replace("?", _NEXT_ID, 1)
# A parameter that is None takes 0.7 us more than a number: the driver looks for an adapter.
_INSERT_PLAIN = f"""
INSERT INTO {{t}}queue_jobs (
    id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
    max_retries
) VALUES ({_NEXT_ID}, 'scheduled', ?, ?, ?, ?, ?, ?, ?, 0, ?)
"""
_INSERT_NEW_KEY = f"{_INSERT_NEXT} ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"
_TAKEN = """
SELECT idempotency_key FROM {t}queue_jobs
WHERE idempotency_key IN (SELECT value FROM json_each(:keys)) AND idempotency_key IS NOT NULL
"""

_POST = SETTLE_HELD["posted"]
_POST_MANY = _POST.replace("id = :id", "id IN (SELECT value FROM json_each(:ids))").replace(
    ":remote_id", "NULL"
)
_POST_MANY_WITH_REMOTE_IDS = (
    _POST.replace("id = :id", "id = CAST(given_id AS INTEGER)")
    .replace(":remote_id", "given_remote_id")
    .replace("WHERE", "FROM (SELECT key AS given_id, value AS given_remote_id FROM json_each(:ids)) WHERE", 1)
)

# For jobs that are in the table as their holder has them: to return rows takes as long as half of the rest.
_AS_HELD = {
    template: template.partition("RETURNING")[0] + "AND publish_started_at IS NULL AND metadata = '{}'"
    for template in (_POST_MANY, _POST_MANY_WITH_REMOTE_IDS)
}

_STATUSES = {str(status): status for status in JobStatus}


class SqliteJobStore(SqlJobStore):
    def __init__(self, database: SqliteWork) -> None:
        super().__init__(database)
        self._sqlite = database
        self._insert_plain = self._render(_INSERT_PLAIN)

    def prepare_gap_checks(self) -> None:
        """The index costs each insert a fifth, so it is there once somebody asks: docs/decisions/0015."""
        statement = self._render(_INDEX_FOR_GAPS)
        self._database.read(lambda connection: connection.execute(statement))

    def lock_platforms(self, platforms: Sequence[str]) -> None:  # noqa: ARG002  (the lock is the file's)
        statement = self._render(_TAKE_WRITE_LOCK)
        self._database.autocommit(lambda connection: connection.execute(statement))

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        if len(drafts) == 1:
            return [self._insert_one(drafts[0], now)]
        return self._insert_many([*drafts], now)

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        if len(settlements) == 1 or expired_only:
            return super().settle(settlements, now=now, expired_only=expired_only)
        return self._post_as_held(settlements, now) or self._settle_many(settlements, now)

    def _insert_one(self, draft: JobDraft, now: datetime) -> Job | None:
        if draft.idempotency_key is None and draft.max_lateness is None:
            return self._insert_one_plain(draft, now)
        statement = self._render(_INSERT_NEXT if draft.idempotency_key is None else _INSERT_NEW_KEY)
        _, *values = self._values(None, draft, self._bind(now))
        id = self._sqlite.autocommit(lambda connection: connection.insert(statement, values))
        return new_job(id, draft, now) if id else None

    def _insert_one_plain(self, draft: JobDraft, now: datetime) -> Job:
        written = to_microseconds(now)
        at = written if draft.scheduled_at is now else to_microseconds(draft.scheduled_at)
        values = (
            draft.platform, draft.content, draft.metadata, at, at, written, written, draft.max_retries
        )  # fmt: skip
        id = self._sqlite.autocommit(lambda connection: connection.insert(self._insert_plain, values))
        return new_job(id, draft, now)

    def _insert_many(self, drafts: Sequence[JobDraft], now: datetime) -> list[Job | None]:
        """Nobody else writes meanwhile: keys that are free stay free, and ids follow each other."""
        statement, at = self._render(_INSERT), self._bind(now)

        def work(connection: Connection) -> dict[int, int]:
            free = self._free(connection, drafts)
            ((next_id,),) = connection.rows(self._render(f"SELECT {_NEXT_ID}"))
            ids = dict(zip(free, count(next_id), strict=False))
            connection.execute_many(
                statement, [self._values(id, drafts[place], at) for place, id in ids.items()]
            )
            return ids

        ids = self._sqlite.in_transaction(work)
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

    def _post_as_held(self, settlements: Sequence[Settlement], now: datetime) -> list[Job | None] | None:
        """None, and nothing written, unless they are alike and no claim is lost."""
        first = settlements[0]
        if not all(_is_plain(one) and _is_alike(one, first) for one in settlements):
            return None
        template, ids = _posting(settlements)
        statement = self._render(_AS_HELD[template])
        params = {"now": self._bind(now), "claim": first.claim, "ids": ids}

        def work(connection: Connection) -> None:
            if connection.execute(statement, params) < len(settlements):
                raise _NotAsHeld

        try:
            self._sqlite.in_transaction(work)
        except _NotAsHeld:
            return None
        return [posted_job(one, now, None, {}) for one in settlements]

    def _settle_many(self, settlements: Sequence[Settlement], now: datetime) -> list[Job | None]:
        places: dict[tuple[int, int], int] = {}
        for place, one in enumerate(settlements):
            places.setdefault((one.job.id, one.job.claim), place)
        posts: defaultdict[tuple[int, bool], list[Settlement]] = defaultdict(list)
        others: list[Settlement] = []
        for (_, claim), place in places.items():
            one = settlements[place]
            if one.kind == "posted":
                posts[claim, one.remote_id is not None].append(one)
            else:
                others.append(one)

        def work(connection: Connection) -> list[Job]:
            jobs = [
                self._settled(settlements[places[row[:2]]], now, row)
                for (claim, _), group in posts.items()
                for row in self._post(connection, claim, group, now)
            ]
            for one in others:
                row = connection.row(self._render(SETTLE_HELD[one.kind]), self._outcome(one, now))
                if row is not None:
                    jobs.append(self._job(row))
            return jobs

        run = self._sqlite.autocommit if len(posts) + len(others) == 1 else self._sqlite.in_transaction
        results: list[Job | None] = [None] * len(settlements)
        for job in run(work):
            results[places[job.id, job.claim]] = job
        return results

    def _post(
        self, connection: Connection, claim: int, group: Sequence[Settlement], now: datetime
    ) -> list[Row]:
        template, ids = _posting(group)
        params = {"now": self._bind(now), "claim": claim, "ids": ids}
        return connection.rows(self._render(template), params)

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


class _NotAsHeld(Exception):
    pass


def _posting(alike: Sequence[Settlement]) -> tuple[str, str]:
    """The template that posts them, and its `ids`."""
    if alike[0].remote_id is None:
        return _POST_MANY, _json([one.job.id for one in alike])
    return _POST_MANY_WITH_REMOTE_IDS, _json({one.job.id: one.remote_id for one in alike})


def _is_plain(one: Settlement) -> bool:
    return one.kind == "posted" and one.job.publish_started_at is None and not one.job.metadata


def _is_alike(one: Settlement, other: Settlement) -> bool:
    return one.job.claim == other.job.claim and (one.remote_id is None) == (other.remote_id is None)


def _attempts(stored: str) -> tuple[Attempt, ...]:
    return tuple(map(_attempt, json.loads(stored)))


def _attempt(stored: dict[str, Any]) -> Attempt:
    return Attempt(stored["number"], moment(stored["at"]), stored["worker_id"], stored["error"])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
