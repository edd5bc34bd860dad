"""Many new jobs: copied in blocks, so that the server stores one while the next is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import repeat
from struct import Struct
from typing import NamedTuple

from ...engine.values import JobDraft
from ...records import Job
from ...validation import EMPTY_OBJECT
from ..sql.jobs import in_microseconds
from ..sql.new_jobs import new_job
from .adapters import to_binary
from .collector import young_only
from .executor import PostgresExecutor

WORTH_COPYING = 100
# So that the server begins soon.
_FIRST_BLOCK = 50
_BLOCK = 500

# The ids themselves are sent only if others took some in between. In FROM, the series would be stored first.
_RESERVE_IDS = """
WITH reserved AS MATERIALIZED (
    SELECT array_agg(nextval((SELECT pg_get_serial_sequence(:jobs, 'id')::regclass))) AS ids
    FROM (SELECT generate_series(1, :count)) AS numbers
)
SELECT ids[1], CASE WHEN ids[cardinality(ids)] - ids[1] >= :count THEN ids END FROM reserved
"""

# What most jobs share comes last, in one piece.
_COPY = """
COPY {{t}}queue_jobs (
    id, content, {more}status, platform, scheduled_at, due_at, created_at, updated_at, max_retries
) FROM STDIN (FORMAT BINARY)
"""
_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"

# In the binary format of COPY each field is preceded by its size: four bytes, -1 for NULL.
_HEAD = Struct("!h iq i")
_STATUS = Struct("!i9s i").pack
_TIMES = Struct("!iq iq iq iq iq").pack
_JSON = Struct("!ib").pack
_LATENESS = Struct("!iq iq").pack
_NO_LATENESS = Struct("!i i").pack(-1, -1)
_JSON_VERSION = 1


class _Form(NamedTuple):
    """Which columns are sent, and those of a job that are neither its content nor shared by most."""

    columns: int
    statement: str
    more: Callable[[JobDraft], bytes] | None


def _metadata_and_lateness(draft: JobDraft) -> bytes:
    metadata, lateness = draft.metadata.encode(), in_microseconds(draft.max_lateness)
    if lateness is None:
        late = _NO_LATENESS
    else:
        late = _LATENESS(8, lateness, 8, to_binary(draft.scheduled_at) + lateness)
    return b"".join((_JSON(1 + len(metadata), _JSON_VERSION), metadata, late))


# The table's defaults are no metadata and no limit to lateness.
_PLAIN = _Form(9, _COPY.format(more=""), None)
_FULL = _Form(12, _COPY.format(more="metadata, max_lateness, attention_at, "), _metadata_and_lateness)


def copy_jobs(
    connection: PostgresExecutor,
    render: Callable[[str], str],
    table: str,
    drafts: Sequence[JobDraft],
    now: datetime,
    jobs: list[Job | None],
) -> Sequence[JobDraft]:
    """Adds the jobs up to the first block in which one has a key, which COPY cannot look up.

    Returns that block.
    """
    block = drafts[:_FIRST_BLOCK]
    form = _form(block)
    if form is None:
        return block
    ids = _reserved(connection, render(_RESERVE_IDS), table, len(drafts))
    while block and form is not None:
        opened = form
        with connection.copying(render(opened.statement)) as send, young_only(len(drafts)) as made:
            send(_BEGIN)
            while block and (form is opened or form is _PLAIN):
                stop = len(jobs) + len(block)
                places = ids[len(jobs) : stop]
                send(_rows(opened, block, places, now))
                jobs += map(new_job, places, block, repeat(now))
                block = drafts[stop : stop + _BLOCK]
                form = _form(block)
                made(len(places))
            send(_END)
    return block


def _form(block: Iterable[JobDraft]) -> _Form | None:
    """None where one has a key."""
    form = _PLAIN
    for draft in block:
        if draft.idempotency_key is not None:
            return None
        if draft.max_lateness is not None or draft.metadata != EMPTY_OBJECT:
            form = _FULL
    return form


def _reserved(connection: PostgresExecutor, statement: str, table: str, count: int) -> Sequence[int]:
    ((first, ids),) = connection.rows(statement, {"jobs": table, "count": count})
    return ids or range(first, first + count)


def _rows(form: _Form, drafts: Iterable[JobDraft], ids: Iterable[int], now: datetime) -> bytes:
    """Spelled here: the driver's `write_row` takes several times as long."""
    columns, _, more = form
    head, created = _HEAD.pack, to_binary(now)
    parts: list[bytes] = []
    platform = at = retries = None
    shared = b""
    for id, draft in zip(ids, drafts, strict=True):
        if draft.platform is not platform or draft.scheduled_at is not at or draft.max_retries is not retries:
            platform, at, retries = draft.platform, draft.scheduled_at, draft.max_retries
            shared = _shared(platform.encode(), to_binary(at), created, retries)
        content = draft.content.encode()
        parts += (head(columns, 8, id, len(content)), content)
        if more is not None:
            parts.append(more(draft))
        parts.append(shared)
    return b"".join(parts)


def _shared(platform: bytes, at: int, created: int, retries: int) -> bytes:
    times = _TIMES(8, at, 8, at, 8, created, 8, created, 8, retries)
    return b"".join((_STATUS(9, b"scheduled", len(platform)), platform, times))
