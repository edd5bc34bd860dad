"""Inserts new jobs. Only the ids are returned by the server; the other fields are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ...engine.values import JobDraft
from ..sql.jobs import in_microseconds
from .dialect import PostgresDialect

_UNLESS_KEY_IS_TAKEN = "ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"


class InsertStatements:
    def __init__(self, d: PostgresDialect) -> None:
        table = f"{d.t}queue_jobs"
        # No notification if the server's queue of them is half full: once it is full, the commit would fail.
        self.insert = f"""
            INSERT INTO {table} (
                status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
                max_retries, max_lateness, attention_at, idempotency_key
            ) VALUES (
                'scheduled', %(platform)s, %(content)s, %(metadata)s::jsonb, %(scheduled_at)s,
                %(scheduled_at)s, %(now)s, %(now)s, 0, %(max_retries)s, %(max_lateness)s,
                %(scheduled_at)s::timestamptz + %(max_lateness)s::bigint * interval '1 microsecond',
                %(idempotency_key)s
            )
            {_UNLESS_KEY_IS_TAKEN}
            RETURNING id, CASE
                WHEN %(notify)s AND pg_catalog.pg_notification_queue_usage() < 0.5
                THEN pg_catalog.pg_notify(%(channel)s, '') IS NULL
            END
        """
        # Ids follow the order of the drafts. Rows are inserted in the order of their keys, to avoid deadlocks
        # between batches that have some in common.
        self.insert_many = f"""
            WITH sequence AS MATERIALIZED (
                SELECT pg_catalog.pg_get_serial_sequence(%(jobs)s, 'id')::regclass AS name
            ),
            numbered AS MATERIALIZED (
                SELECT pg_catalog.nextval(sequence.name) AS id, draft.*
                FROM sequence, ROWS FROM (pg_catalog.jsonb_to_recordset(%(drafts)s::jsonb) AS (
                    platform text, content text, metadata jsonb, scheduled_at timestamptz,
                    max_retries bigint, max_lateness bigint, idempotency_key text
                )) WITH ORDINALITY AS draft (
                    platform, content, metadata, scheduled_at, max_retries, max_lateness, idempotency_key,
                    place
                )
                ORDER BY place
            )
            INSERT INTO {table} (
                id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at,
                retries, max_retries, max_lateness, attention_at, idempotency_key
            )
            SELECT
                id, 'scheduled', platform, content, metadata, scheduled_at, scheduled_at, %(now)s, %(now)s, 0,
                max_retries, max_lateness, scheduled_at + max_lateness * interval '1 microsecond',
                idempotency_key
            FROM numbered
            ORDER BY idempotency_key, place
            {_UNLESS_KEY_IS_TAKEN}
            RETURNING id, idempotency_key
        """


def drafts_json(drafts: Sequence[JobDraft]) -> str:
    """Encode the drafts as the parameter of `insert_many`."""
    return f"[{','.join(map(_draft_json, drafts))}]"


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


def ids_of(drafts: Sequence[JobDraft], rows: Sequence[tuple[int, str | None]]) -> Iterator[int | None]:
    """Yield the id of each draft, or None if its key was taken. `rows` are the inserted ones, by id."""
    inserted = {key for _, key in rows}
    remaining = iter(rows)
    for draft in drafts:
        key = draft.idempotency_key
        if key is None:
            yield next(remaining)[0]
        elif key in inserted:
            inserted.discard(key)
            yield next(remaining)[0]
        else:
            yield None
