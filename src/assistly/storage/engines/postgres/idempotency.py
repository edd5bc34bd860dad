"""Idempotency keys in batches: numbered in the order given, locked in the order of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from ...engine.values import IdempotencyRow, JsonText, KeyClaim
from ...errors import StorageUnavailable
from ..sql.database import Executor
from ..sql.idempotency import COLUMNS, OVERWRITE, TAKE_OVER, SqlIdempotencyStore
from .batches import chunks
from .dialect import int_array, quote, text_array
from .session import PostgresWork


def _numbered(columns: str, arrays: str) -> str:
    """What comes first gets the lower number; batches that share keys wait in a line, not in a circle."""
    return f"""
WITH sequence AS MATERIALIZED (SELECT pg_get_serial_sequence(:table, 'seq')::regclass AS name),
numbered AS MATERIALIZED (
    SELECT nextval(sequence.name) AS seq, given.*
    FROM sequence, ROWS FROM ({arrays}) WITH ORDINALITY AS given ({columns}, place)
    ORDER BY place
)"""


_CLAIMS = """
unnest(:keys::text[], :fingerprints::text[], :tokens::bigint[], :leases::timestamptz[], :nows::timestamptz[])
"""
_RESULTS = """
unnest(:keys::text[]), jsonb_array_elements(:values::jsonb), unnest(:saved_ats::timestamptz[])
"""

_CLAIM_MANY = f"""
{_numbered("key, fingerprint, token, lease_until, now", _CLAIMS)}
INSERT INTO {{t}}idempotency AS stored (seq, key, saved_at, completed, fingerprint, token, lease_until)
SELECT seq, key, now, FALSE, fingerprint, token, lease_until FROM numbered ORDER BY key COLLATE "C"
{TAKE_OVER}
RETURNING {COLUMNS}
"""

_ROWS = f"SELECT {COLUMNS} FROM {{t}}idempotency WHERE key = ANY(:keys::text[])"

_PUT_MANY = f"""
{_numbered("key, value, saved_at", _RESULTS)}
INSERT INTO {{t}}idempotency (seq, key, saved_at, completed, value)
SELECT seq, key, saved_at, TRUE, value FROM numbered ORDER BY key COLLATE "C"
{OVERWRITE}
"""


class PostgresIdempotencyStore(SqlIdempotencyStore):
    def __init__(self, database: PostgresWork) -> None:
        super().__init__(database)
        self._table = f"{quote(database.dialect.schema)}.assistly_idempotency"

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        statement, others = self._render(_CLAIM_MANY), self._render(_ROWS)
        params = {
            "table": self._table,
            "keys": text_array(claim.key for claim in claims),
            "fingerprints": text_array(claim.fingerprint for claim in claims),
            "tokens": int_array(claim.token for claim in claims),
            "leases": [claim.lease_until for claim in claims],
            "nows": [claim.now for claim in claims],
        }
        rows = self._database.autocommit(lambda connection: connection.rows(statement, params))
        found = {row.key: row for row in map(self._row, rows)}
        held = [claim.key for claim in claims if claim.key not in found]
        if held:
            # Those that were taken are taken: that the others cannot be read must not hide it.
            with suppress(StorageUnavailable):
                rows = self._database.read(lambda connection: connection.rows(others, {"keys": held}))
                found |= {row.key: row for row in map(self._row, rows)}
        return [found.get(claim.key) for claim in claims]

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        statement = self._render(_PUT_MANY)
        batches = [self._batch(chunk) for chunk in chunks(results, lambda result: len(result[1]))]

        def work(connection: Executor) -> None:
            for params in batches:
                connection.execute(statement, params)

        (self._database.autocommit if len(batches) == 1 else self._database.in_transaction)(work)

    def _batch(self, results: Sequence[tuple[str, JsonText, datetime]]) -> dict[str, Any]:
        return {
            "table": self._table,
            "keys": text_array(key for key, _, _ in results),
            "values": f"[{','.join(value for _, value, _ in results)}]",
            "saved_ats": [saved_at for _, _, saved_at in results],
        }
