"""Inserts many jobs with COPY, in blocks: the server stores one while the next is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from struct import Struct

from ... import transitions
from ...engine.values import JobDraft
from ...records import Job
from ..sql.jobs import in_microseconds
from .adapters import to_binary
from .dialect import PostgresDialect
from .executor import PostgresExecutor

WORTH_COPYING = 100
_BLOCK = 500

_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"

# In the binary format of COPY each field is preceded by its size: four bytes, -1 for NULL.
_COLUMNS = 12
_FIXED = Struct("!h iq i9s iq iq iq iq iq")
_LATENESS = Struct("!iq iq")
_NO_LATENESS = Struct("!i i").pack(-1, -1)
_size = Struct("!i").pack
_JSON_VERSION = b"\x01"


class BulkStatements:
    def __init__(self, d: PostgresDialect) -> None:
        # The ids are returned only if other sessions took some in between. The series is in the SELECT list,
        # since in FROM the server would materialize it first.
        self.reserve_ids = """
            WITH reserved AS MATERIALIZED (
                SELECT pg_catalog.array_agg(pg_catalog.nextval((
                    SELECT pg_catalog.pg_get_serial_sequence(%(jobs)s, 'id')::regclass
                ))) AS ids
                FROM (SELECT pg_catalog.generate_series(1, %(count)s)) AS numbers
            )
            SELECT
                ids[1],
                CASE WHEN ids[pg_catalog.cardinality(ids)] - ids[1] >= %(count)s THEN ids END
            FROM reserved
        """
        self.copy = f"""
            COPY {d.t}queue_jobs (
                id, status, scheduled_at, due_at, created_at, updated_at, max_retries, max_lateness,
                attention_at, platform, content, metadata
            ) FROM STDIN (FORMAT BINARY)
        """


def copy_jobs(
    executor: PostgresExecutor, sql: BulkStatements, table: str, drafts: Sequence[JobDraft], now: datetime
) -> list[Job]:
    """Insert drafts that have no idempotency keys: COPY knows no ON CONFLICT."""
    count = len(drafts)
    ((first, gapped),) = executor.batch(count, sql.reserve_ids, {"jobs": table, "count": count})
    ids: Sequence[int] = gapped or range(first, first + count)
    jobs: list[Job] = []
    with executor.copying(sql.copy) as send:
        send(_BEGIN)
        for start in range(0, count, _BLOCK):
            executor.limit.allow(_BLOCK)
            block, block_ids = drafts[start : start + _BLOCK], ids[start : start + _BLOCK]
            send(_rows(block, block_ids, now))
            jobs += [transitions.new(draft, id, now) for draft, id in zip(block, block_ids, strict=True)]
        executor.limit.allow(count)
        send(_END)
    return jobs


def _rows(drafts: Iterable[JobDraft], ids: Iterable[int], now: datetime) -> bytes:
    """Encode rows for COPY. The driver's `write_row` takes several times as long."""
    created = to_binary(now)
    parts: list[bytes] = []
    for id, draft in zip(ids, drafts, strict=True):
        at = to_binary(draft.scheduled_at)
        lateness = in_microseconds(draft.max_lateness)
        platform, content = draft.platform.encode(), draft.content.encode()
        metadata = draft.metadata.encode()
        parts += (
            _FIXED.pack(
                _COLUMNS, 8, id, 9, b"scheduled", 8, at, 8, at, 8, created, 8, created, 8, draft.max_retries
            ),
            _NO_LATENESS if lateness is None else _LATENESS.pack(8, lateness, 8, at + lateness),
            _size(len(platform)),
            platform,
            _size(len(content)),
            content,
            _size(1 + len(metadata)),
            _JSON_VERSION,
            metadata,
        )
    return b"".join(parts)
