"""New jobs. The server is asked for their ids only: the rest is what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from struct import Struct

from ...backend import JobDraft
from ..sql.jobs import INSERT, UNLESS_KEY_IS_TAKEN, in_microseconds
from .adapters import to_binary
from .notifying import TOLD

INSERT_ONE = f"{INSERT} RETURNING id"
INSERT_ONE_WITH_KEY = f"{INSERT} {UNLESS_KEY_IS_TAKEN} RETURNING id"
INSERT_ONE_AND_TELL = f"{INSERT_ONE}, {TOLD}"
INSERT_ONE_WITH_KEY_AND_TELL = f"{INSERT_ONE_WITH_KEY}, {TOLD}"

# Ids in the order of the drafts; rows in the order of their keys, so that batches which share some
# wait for each other in a line and not in a circle.
INSERT_MANY = f"""
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
    max_retries, max_lateness, attention_at, idempotency_key
)
SELECT
    id, 'scheduled', platform, content, metadata, scheduled_at, scheduled_at, :now, :now, 0,
    max_retries, max_lateness, scheduled_at + max_lateness {{microseconds}}, idempotency_key
FROM numbered
ORDER BY idempotency_key, place
{UNLESS_KEY_IS_TAKEN}
RETURNING id, idempotency_key
"""

RESERVE_IDS = """
SELECT array_agg(nextval((SELECT pg_get_serial_sequence(:jobs, 'id')::regclass)))
FROM generate_series(1, :count)
"""
COPY = """
COPY {t}queue_jobs (
    id, status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, max_retries,
    max_lateness, attention_at
) FROM STDIN (FORMAT BINARY)
"""
COPY_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_END = b"\xff\xff"

# In the binary format of COPY each field is preceded by its size: four bytes, -1 for NULL.
_HEAD = Struct("!h iq i9s i")
_SIZE = Struct("!i")
_JSON_SIZE = Struct("!ib")
_TIMES = Struct("!iq iq iq iq iq")
_LATENESS = Struct("!iq iq")
_NO_LATENESS = Struct("!i i").pack(-1, -1)
_COLUMNS = 12
_JSON_VERSION = 1


def can_be_copied(draft: JobDraft) -> bool:
    """Whether COPY can take it: it has nothing to conflict with."""
    return draft.idempotency_key is None


def copy_rows(drafts: Sequence[JobDraft], ids: Sequence[int], now: datetime) -> bytes:
    """Spelled here: the driver's `write_row` takes three times as long."""
    at_once = to_binary(now)
    return b"".join([_row(draft, id, now, at_once) for draft, id in zip(drafts, ids, strict=True)])


def _row(draft: JobDraft, id: int, now: datetime, at_once: int) -> bytes:
    platform, content, metadata = draft.platform.encode(), draft.content.encode(), draft.metadata.encode()
    at = at_once if draft.scheduled_at is now else to_binary(draft.scheduled_at)
    lateness = in_microseconds(draft.max_lateness)
    return b"".join(
        (
            _HEAD.pack(_COLUMNS, 8, id, 9, b"scheduled", len(platform)),
            platform,
            _SIZE.pack(len(content)),
            content,
            _JSON_SIZE.pack(1 + len(metadata), _JSON_VERSION),
            metadata,
            _TIMES.pack(8, at, 8, at, 8, at_once, 8, at_once, 8, draft.max_retries),
            _NO_LATENESS if lateness is None else _LATENESS.pack(8, lateness, 8, at + lateness),
        )
    )


def drafts_json(drafts: Sequence[JobDraft]) -> str:
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


def ids_in_places(drafts: Sequence[JobDraft], rows: Sequence[tuple[int, str | None]]) -> Iterator[int | None]:
    """The rows are in the order of the drafts: one whose key is not theirs, or not any more, has none."""
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
