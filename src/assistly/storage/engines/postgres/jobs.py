"""The queue in few statements: batches travel whole."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from operator import itemgetter
from typing import Any

from ...backend import JobDraft, JsonText, Settlement
from ...errors import InvalidValue
from ...records import Job, JobStatus
from ..sql.database import Executor, Params, Row
from ..sql.jobs import JOB_COLUMNS, SETTLE_EXPIRED, SETTLE_HELD, WAITING, SqlJobStore, in_microseconds
from .batches import chunks
from .clock import ticks
from .courier import Announcement
from .dialect import APPEND_ATTEMPT, lock_key, quote
from .session import PostgresWork

# Ids in the order of the drafts; rows in the order of their keys, so that batches which share some
# wait for each other in a line and not in a circle.
_INSERT_MANY = f"""
WITH sequence AS MATERIALIZED (SELECT pg_get_serial_sequence(:jobs, 'id')::regclass AS name),
numbered AS MATERIALIZED (
    SELECT nextval(sequence.name) AS id, draft.*
    FROM sequence, ROWS FROM (jsonb_to_recordset(:drafts::jsonb) AS (
        platform text, content text, metadata jsonb, scheduled_at timestamptz, max_retries bigint,
        max_lateness bigint, idempotency_key text
    )) WITH ORDINALITY AS draft (
        platform, content, metadata, scheduled_at, max_retries, max_lateness, idempotency_key, place
    )
    ORDER BY place
)
INSERT INTO {{t}}queue_jobs (
    id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
    max_retries, max_lateness, late_after, idempotency_key
)
SELECT
    id, 'scheduled', platform, content, metadata, scheduled_at, scheduled_at, :now, :now, 0,
    max_retries, max_lateness, scheduled_at + max_lateness {{microseconds}}, idempotency_key
FROM numbered
ORDER BY idempotency_key, place
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING {JOB_COLUMNS}
"""
_KEY = JOB_COLUMNS.split(", ").index("idempotency_key")

# In the order of the array, one lock after the other.
_LOCK_PLATFORMS = "SELECT pg_advisory_xact_lock(key) FROM unnest(:keys::bigint[]) AS key"

_EXTEND_MANY = f"""
UPDATE {{t}}queue_jobs SET lease_until = :lease_until, updated_at = :now
FROM unnest(:ids::bigint[], :claims::bigint[]) AS given (given_id, given_claim)
WHERE id = given_id AND claim = given_claim AND status = 'processing' AND lease_until > :now
RETURNING {JOB_COLUMNS}
"""

_GIVEN_TYPES = {
    "id": "bigint",
    "claim": "bigint",
    "remote_id": "text",
    "error": "text",
    "attempt_error": "text",
    "at": "timestamptz",
    "final": "boolean",
    "keep_publish": "boolean",
}
_GIVEN = re.compile(rf"(?<!:):({'|'.join(_GIVEN_TYPES)})\b")


_NEXT_DUE_AND_NOW = f"""
SELECT due_at, clock_timestamp() FROM {{t}}queue_jobs WHERE {WAITING} ORDER BY due_at, id LIMIT 1
"""
_WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
# Well above how long waiters sleep without looking again.
_SOON = timedelta(seconds=10)
_NO_ID = 0


class PostgresJobStore(SqlJobStore):
    def __init__(self, database: PostgresWork) -> None:
        super().__init__(database)
        self._postgres = database
        self._schema = database.dialect.schema
        self._table = f"{quote(self._schema)}.assistly_queue_jobs"

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        return self._announced(self._insert(drafts, now), now)

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        job = super().reschedule(id, scheduled_at, content=content, metadata=metadata, now=now)
        return self._announced([job], now)[0]

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        if len(settlements) < 2:
            jobs = super().settle(settlements, now=now, expired_only=expired_only)
        else:
            jobs = self._settle_many(settlements, now, expired_only)
        return self._announced(jobs, now)

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        return self._announced([super().replay(id, scheduled_at, now=now)], now)[0]

    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        count = super().replay_many(platform=platform, limit=limit, scheduled_at=scheduled_at, now=now)
        if count and scheduled_at - now <= _SOON:
            self._postgres.announce(Announcement(scheduled_at, _NO_ID, now))
        return count

    def next_due_at(self) -> datetime | None:
        """Brings the server's time along, which whoever asks needs as well."""
        statement = self._render(_NEXT_DUE_AND_NOW)

        def work(connection: Executor) -> datetime | None:
            before = ticks()
            row = connection.row(statement, {})
            if row is None:
                return None
            due_at: datetime
            due_at, moment = row
            self._postgres.clock.learn(moment, before)
            return due_at

        return self._database.read(work)

    def _announced(self, jobs: Sequence[Job | None], now: datetime) -> Sequence[Job | None]:
        """Told to those who wait for jobs, as far as they wait themselves and are due soon."""
        soon = [
            (job.due_at, job.id)
            for job in jobs
            if job is not None and job.status in _WAITING and job.due_at - now <= _SOON
        ]
        if soon:
            self._postgres.announce(Announcement(*min(soon), now))
        return jobs

    def _insert(self, drafts: Sequence[JobDraft], now: datetime) -> Sequence[Job | None]:
        if len(drafts) < 2:
            return super().insert(drafts, now=now)
        statement = self._render(_INSERT_MANY)
        batches = [
            {"drafts": f"[{','.join(map(_draft_json, chunk))}]", "now": now, "jobs": self._table}
            for chunk in chunks(drafts, lambda draft: len(draft.content) + len(draft.metadata))
        ]

        def work(connection: Executor) -> list[Row]:
            return [row for params in batches for row in connection.rows(statement, params)]

        rows = self._database.single(work) if len(batches) == 1 else self._database.write(work)
        return [self._job_or_none(row) for row in _in_places(drafts, sorted(rows, key=itemgetter(0)))]

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        if not self._postgres.sees_later_commits():
            raise InvalidValue(
                "min_gap takes a READ COMMITTED transaction: in the connection's isolation level the "
                "jobs that others schedule meanwhile cannot be seen"
            )
        statement = self._render(_LOCK_PLATFORMS)
        params = {"keys": sorted({lock_key("platform", self._schema, platform) for platform in platforms})}
        self._database.read(lambda connection: connection.rows(statement, params))

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        if not claims:
            return []
        statement = self._render(_EXTEND_MANY)
        ids, fences = zip(*sorted(set(claims)), strict=True)
        params = {"ids": list(ids), "claims": list(fences), "lease_until": lease_until, "now": now}
        rows = self._database.single(lambda connection: connection.rows(statement, params))
        return [self._job(row) for row in sorted(rows, key=itemgetter(0))]

    def _settle_many(
        self, settlements: Sequence[Settlement], now: datetime, expired_only: bool
    ) -> list[Job | None]:
        first = {(one.id, one.claim): place for place, one in reversed([*enumerate(settlements)])}
        templates = SETTLE_EXPIRED if expired_only else SETTLE_HELD
        steps = [
            self._settle_step(templates[kind], [self._outcome(one, now) for one in group])
            for kind, group in _by_kind([settlements[place] for place in first.values()])
        ]

        def work(connection: Executor) -> list[Row]:
            return [row for statement, params in steps for row in connection.rows(statement, params)]

        rows = self._database.single(work) if len(steps) == 1 else self._database.write(work)
        jobs = {job.id: job for job in map(self._job, rows)}
        return [
            job
            if (job := jobs.get(one.id)) and job.claim == one.claim and first[one.id, one.claim] == place
            else None
            for place, one in enumerate(settlements)
        ]

    def _settle_step(self, template: str, outcomes: Sequence[Mapping[str, Any]]) -> tuple[str, Params]:
        """The statement for one job, with its values taken from arrays instead."""
        names = tuple(name for name in _GIVEN_TYPES if name in outcomes[0])
        statement = self._render(_for_many(template, names))
        shared = {name: value for name, value in outcomes[0].items() if name not in _GIVEN_TYPES}
        return statement, shared | {f"{name}s": [one[name] for one in outcomes] for name in names}


@cache
def _for_many(template: str, names: tuple[str, ...]) -> str:
    arrays = ", ".join(f":{name}s::{_GIVEN_TYPES[name]}[]" for name in names)
    columns = ", ".join(f"given_{name}" for name in names)
    whole = template.replace("{append_attempt}", APPEND_ATTEMPT)
    changes, where, condition = _GIVEN.sub(r"given_\1", whole).rpartition("WHERE")
    return f"{changes}FROM unnest({arrays}) AS given ({columns}) {where}{condition}"


def _by_kind(settlements: Sequence[Settlement]) -> Iterator[tuple[str, list[Settlement]]]:
    """Each kind by id, so that two batches do not wait for each other in a circle."""
    groups: defaultdict[str, list[Settlement]] = defaultdict(list)
    for one in sorted(settlements, key=lambda settlement: (settlement.kind, settlement.id)):
        groups[one.kind].append(one)
    yield from groups.items()


def _draft_json(draft: JobDraft) -> str:
    fields = {
        "platform": draft.platform,
        "content": draft.content,
        "scheduled_at": draft.scheduled_at.isoformat(),
        "max_retries": draft.max_retries,
        "max_lateness": in_microseconds(draft.max_lateness),
        "idempotency_key": draft.idempotency_key,
    }
    return f'{json.dumps(fields, ensure_ascii=False)[:-1]}, "metadata": {draft.metadata}}}'


def _in_places(drafts: Sequence[JobDraft], rows: Sequence[Row]) -> Iterator[Row | None]:
    """The rows are in the order of the drafts: one whose key is not theirs, or not any more, has none."""
    inserted = {row[_KEY] for row in rows}
    remaining = iter(rows)
    for draft in drafts:
        key = draft.idempotency_key
        if key is None:
            yield next(remaining)
        elif key in inserted:
            inserted.discard(key)
            yield next(remaining)
        else:
            yield None
