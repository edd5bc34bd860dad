"""The queue in few statements: batches travel whole."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any

from ...engine.values import JobDraft, JsonText, Settlement
from ...errors import InvalidValue
from ...records import Job, JobStatus
from ..sql.attempts import ATTEMPT_ERROR_LENGTH, decoded_attempt
from ..sql.database import Executor, Params, Row
from ..sql.jobs import (
    HELD,
    JOB_COLUMNS,
    SETTLE_EXPIRED,
    SETTLE_HELD,
    WAITING,
    SqlJobStore,
    known_status,
)
from ..sql.new_jobs import make_job, new_job
from ..sql.store import to_microseconds
from .batches import chunks
from .bulk import WORTH_COPYING, copy_jobs
from .clock import ticks
from .courier import Announcement
from .dialect import APPEND_ATTEMPT, int_array, lock_key, quote, text_array
from .executor import PostgresExecutor
from .inserts import (
    INSERT_MANY,
    INSERT_ONE,
    drafts_json,
    form,
    ids_in_places,
)
from .notifying import channel, payload
from .session import PostgresWork

# In the order of the array, one lock after the other.
_LOCK_PLATFORMS = "SELECT pg_advisory_xact_lock(key) FROM unnest(:keys::bigint[]) AS key"

_EXTEND_MANY = f"""
UPDATE {{t}}queue_jobs SET lease_until = :lease_until, attention_at = :lease_until, updated_at = :now
FROM unnest(:ids::bigint[], :claims::bigint[]) AS given (given_id, given_claim)
WHERE id = ANY(:ids::bigint[]) AND id = given_id AND claim = given_claim AND {HELD} AND lease_until > :now
RETURNING {JOB_COLUMNS}
"""

# Without arrays to join with: a seventh less for the server.
_POST_ALIKE = (
    SETTLE_HELD["posted"].replace("id = :id", "id = ANY(:ids::bigint[])").replace(":remote_id", "NULL")
)

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
_GIVEN_NAMES = {
    "posted": ("id", "claim", "remote_id"),
    "failed": ("id", "claim", "error", "attempt_error", "at", "final", "keep_publish"),
    "snoozed": ("id", "claim", "at"),
    "released": ("id", "claim"),
}
_GIVEN = re.compile(rf"(?<!:):({'|'.join(_GIVEN_TYPES)})\b")


_NEXT_DUE_AND_NOW = f"""
SELECT due_at, clock_timestamp() FROM {{t}}queue_jobs WHERE {WAITING} ORDER BY due_at, id LIMIT 1
"""
_due_at = attrgetter("due_at")
_WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
# Well above how long waiters sleep without looking again.
_SOON = timedelta(seconds=10)
_NO_ID = 0


class PostgresJobStore(SqlJobStore):
    def __init__(self, database: PostgresWork) -> None:
        super().__init__(database)
        self._postgres = database
        self._schema = database.dialect.schema
        self._telling: dict[str, Any] = {
            "channel": channel(self._schema),
            "teller": lock_key("telling of jobs", self._schema),
        }
        self._table = f"{quote(self._schema)}.assistly_queue_jobs"

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        if len(drafts) == 1:
            return [self._insert_one(drafts[0], now)]
        if len(drafts) >= WORTH_COPYING:
            return self._insert_in_bulk(drafts, now)
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
            self._postgres.look()
            before = ticks()
            row = connection.row(statement, {})
            if row is None:
                return None
            due_at: datetime
            due_at, moment = row
            self._postgres.clock.learn(before, moment)
            return due_at

        return self._database.read(work)

    def _note_claimed(self, jobs: int) -> None:
        self._postgres.upkeep.note_claimed(jobs)

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

    def _insert_one(self, draft: JobDraft, now: datetime) -> Job | None:
        at = draft.scheduled_at
        kind = form(draft)
        params = self._plain_params(draft, now) if kind == "plain" else self._draft_params(draft, now)
        tells = at <= now and self._postgres.may_tell()
        if tells:
            kind = f"{kind}, telling"
            params.update(self._telling, payload=payload(at))
        statement = self._render(INSERT_ONE[kind])
        row = self._database.autocommit(lambda connection: connection.row(statement, params))
        if row is None:
            return None
        job = new_job(row[0], draft, now)
        if tells and row[1]:
            self._postgres.told()
        elif at - now <= _SOON:
            self._postgres.announce(Announcement(at, job.id, now))
        return job

    def _plain_params(self, draft: JobDraft, now: datetime) -> dict[str, Any]:
        return {
            "platform": draft.platform,
            "content": draft.content,
            "scheduled_at": draft.scheduled_at,
            "now": now,
            "max_retries": draft.max_retries,
        }

    def _insert(self, drafts: Sequence[JobDraft], now: datetime) -> Sequence[Job | None]:
        batches = [*_chunks([*drafts])]
        run = self._database.autocommit if len(batches) == 1 else self._database.in_transaction
        return run(lambda connection: self._insert_many(connection, batches, now))

    def _insert_in_bulk(self, drafts: Sequence[JobDraft], now: datetime) -> list[Job | None]:
        jobs = self._postgres.in_transaction(lambda connection: self._insert_blocks(connection, drafts, now))
        # Of those that are due first, the first one has the lowest id.
        first = min(filter(None, jobs), key=_due_at, default=None)
        self._announced([first], now)
        return jobs

    def _insert_blocks(
        self, connection: PostgresExecutor, drafts: Sequence[JobDraft], now: datetime
    ) -> list[Job | None]:
        jobs: list[Job | None] = []
        block = copy_jobs(connection, self._render, self._table, drafts, now, jobs)
        if block:
            rest = [*block, *drafts[len(jobs) + len(block) :]]
            jobs += self._insert_many(connection, [*_chunks(rest)], now)
        return jobs

    def _insert_many(
        self, connection: Executor, batches: Sequence[Sequence[JobDraft]], now: datetime
    ) -> list[Job | None]:
        statement = self._render(INSERT_MANY)
        rows: list[Row] = []
        for batch in batches:
            params = {"drafts": drafts_json(batch), "now": now, "jobs": self._table}
            rows += connection.rows(statement, params)
        drafts = [draft for batch in batches for draft in batch]
        return [
            None if id is None else new_job(id, draft, now)
            for id, draft in zip(ids_in_places(drafts, sorted(rows)), drafts, strict=True)
        ]

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
        params = {
            "ids": int_array(ids),
            "claims": int_array(fences),
            "lease_until": lease_until,
            "now": now,
        }
        rows = self._database.autocommit(lambda connection: connection.rows(statement, params))
        return [self._job(row) for row in sorted(rows, key=itemgetter(0))]

    def _settle_many(
        self, settlements: Sequence[Settlement], now: datetime, expired_only: bool
    ) -> list[Job | None]:
        places: dict[tuple[int, int], int] = {}
        groups: defaultdict[str, list[tuple[int, int, Settlement]]] = defaultdict(list)
        for place, one in enumerate(settlements):
            fence = one.job.id, one.job.claim
            if fence not in places:
                places[fence] = place
                groups[one.kind].append((*fence, one))
        templates = SETTLE_EXPIRED if expired_only else SETTLE_HELD
        steps = [
            (kind, *self._settle_step(kind, templates[kind], group, now))
            for kind, group in sorted(groups.items())
        ]

        def work(connection: Executor) -> list[Job | None]:
            jobs: list[Job | None] = [None] * len(settlements)
            for kind, statement, params in steps:
                for row in connection.rows(statement, params):
                    if kind == "posted":
                        place = places[row[:2]]
                        jobs[place] = self._settled(settlements[place], now, row)
                    else:
                        job = self._job(row)
                        jobs[places[job.id, job.claim]] = job
            return jobs

        return self._database.autocommit(work) if len(steps) == 1 else self._database.in_transaction(work)

    def _settle_step(
        self, kind: str, template: str, fenced: list[tuple[int, int, Settlement]], now: datetime
    ) -> tuple[str, Params]:
        """The statement for one job, with its values taken from arrays instead.

        By id, so that two batches do not wait for each other in a circle.
        """
        fenced.sort(key=itemgetter(0, 1))
        ids, claims, group = zip(*fenced, strict=True)
        params: dict[str, Any] = {"now": now, "ids": int_array(ids)}
        if kind == "posted" and len({*claims}) == 1 and not any(one.remote_id for one in group):
            return self._render(_POST_ALIKE), params | {"claim": claims[0]}
        params["claims"] = int_array(claims)
        if kind == "posted":
            params["remote_ids"] = text_array([one.remote_id for one in group])
        elif kind == "snoozed":
            params["ats"] = [one.at for one in group]
        elif kind == "failed":
            params["now_us"] = to_microseconds(now)
            params["errors"] = [one.error for one in group]
            params["attempt_errors"] = [one.error[:ATTEMPT_ERROR_LENGTH] for one in group]
            params["ats"] = [one.at for one in group]
            params["finals"] = [one.final for one in group]
            params["keep_publishs"] = [one.keep_publish for one in group]
        return self._render(_for_many(kind, template)), params

    def _job(self, row: Row) -> Job:
        """Its columns are the fields, in their order; the driver has decoded most of them."""
        return make_job(row[0], known_status(row[0], row[1]), *row[2:-2], *_decoded(*row[-2:]))


def _decoded(max_lateness: int | None, attempts: list[dict[str, Any]]) -> tuple[Any, Any]:
    return (
        None if max_lateness is None else timedelta(microseconds=max_lateness),
        tuple(map(decoded_attempt, attempts)) if attempts else (),
    )


@cache
def _for_many(kind: str, template: str) -> str:
    names = _GIVEN_NAMES[kind]
    arrays = ", ".join(f":{name}s::{_GIVEN_TYPES[name]}[]" for name in names)
    columns = ", ".join(f"given_{name}" for name in names)
    whole = template.replace("{append_attempt}", APPEND_ATTEMPT)
    changes, where, condition = _GIVEN.sub(r"given_\1", whole).rpartition("WHERE")
    by_id = f"{where} id = ANY(:ids::bigint[]) AND"
    return f"{changes}FROM unnest({arrays}) AS given ({columns}) {by_id}{condition}"


def _chunks(drafts: Sequence[JobDraft]) -> Iterator[Sequence[JobDraft]]:
    return chunks(drafts, lambda draft: len(draft.content) + len(draft.metadata))
