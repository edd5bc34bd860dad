"""New jobs. The server is asked for their ids only: the rest is what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ...engine.values import JobDraft
from ...validation import EMPTY_OBJECT
from ..sql.jobs import INSERT, UNLESS_KEY_IS_TAKEN, in_microseconds
from .notifying import TOLD

# The table's defaults are no key, no metadata and no bound on lateness.
_PLAIN = """
INSERT INTO {t}queue_jobs (
    status, platform, content, scheduled_at, due_at, created_at, updated_at, max_retries
) VALUES ('scheduled', :platform, :content, :scheduled_at, :scheduled_at, :now, :now, :max_retries)
RETURNING id
"""
_INSERT_ONE = {
    "plain": _PLAIN,
    "full": f"{INSERT} RETURNING id",
    "keyed": f"{INSERT} {UNLESS_KEY_IS_TAKEN} RETURNING id",
}
INSERT_ONE = _INSERT_ONE | {
    f"{kind}, telling": f"{statement}, {TOLD}" for kind, statement in _INSERT_ONE.items()
}


def form(draft: JobDraft) -> str:
    if draft.idempotency_key is not None:
        return "keyed"
    return "plain" if draft.max_lateness is None and draft.metadata == EMPTY_OBJECT else "full"


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
