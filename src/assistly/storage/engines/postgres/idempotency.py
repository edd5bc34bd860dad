"""Idempotency keys, with one statement for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...engine.values import IdempotencyRow, JsonText, KeyClaim
from ...errors import StorageUnavailable
from ..sql.database import Row
from ..sql.idempotency import KEY_COLUMNS, OVERWRITE, TAKE_OVER, SqlIdempotencyStore
from .batches import chunks
from .dialect import PostgresDialect
from .executor import PostgresExecutor
from .server import PostgresWork


class PostgresIdempotencyStatements:
    """The statements for batches. `seq` follows the order of the batch; rows are locked in the order of the
    keys, to avoid deadlocks."""

    def __init__(self, d: PostgresDialect) -> None:
        table = f"{d.t}idempotency"

        def numbered(columns: str, arrays: str) -> str:
            return f"""
                WITH sequence AS MATERIALIZED (
                    SELECT pg_catalog.pg_get_serial_sequence(%(table)s, 'seq')::regclass AS name
                ),
                numbered AS MATERIALIZED (
                    SELECT pg_catalog.nextval(sequence.name) AS seq, given.*
                    FROM sequence, ROWS FROM ({arrays}) WITH ORDINALITY AS given ({columns}, place)
                    ORDER BY place
                )
            """

        claims = """unnest(
            %(keys)s::text[], %(fingerprints)s::text[], %(tokens)s::bigint[], %(leases)s::timestamptz[],
            %(nows)s::timestamptz[]
        )"""
        results = """
            pg_catalog.unnest(%(keys)s::text[]), pg_catalog.jsonb_array_elements(%(values)s::jsonb),
            pg_catalog.unnest(%(saved_ats)s::timestamptz[])
        """
        self.claim_many = f"""
            {numbered("key, fingerprint, token, lease_until, now", claims)}
            INSERT INTO {table} AS stored
                (seq, key, saved_at, completed, fingerprint, token, lease_until)
            SELECT seq, key, now, FALSE, fingerprint, token, lease_until
            FROM numbered ORDER BY key COLLATE "C"
            {TAKE_OVER}
            RETURNING {KEY_COLUMNS}
        """
        self.rows = f"SELECT {KEY_COLUMNS} FROM {table} WHERE key = ANY(%(keys)s::text[])"
        self.put_many = f"""
            {numbered("key, value, saved_at", results)}
            INSERT INTO {table} (seq, key, saved_at, completed, value)
            SELECT seq, key, saved_at, TRUE, value FROM numbered ORDER BY key COLLATE "C"
            {OVERWRITE}
        """


class PostgresIdempotencyStore(SqlIdempotencyStore):
    """An `IdempotencyStore`."""

    def __init__(self, backend: BackendBase, database: PostgresWork) -> None:
        super().__init__(backend, database)
        self._postgres = database
        self._own = database.dialect.statements(PostgresIdempotencyStatements)
        self._table = f"{database.dialect.quoted_schema}.assistly_idempotency"

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        params = {
            "table": self._table,
            "keys": [claim.key for claim in claims],
            "fingerprints": [claim.fingerprint for claim in claims],
            "tokens": [claim.token for claim in claims],
            "leases": [claim.lease_until for claim in claims],
            "nows": [claim.now for claim in claims],
        }
        rows: Sequence[Row] = self._postgres.autocommit(
            lambda executor: executor.batch(len(claims), self._own.claim_many, params)
        )
        found = {row.key: row for row in map(self._row, rows)}
        held = [claim.key for claim in claims if claim.key not in found]
        if held:
            # The keys in `found` have been taken, so an error of this query must not fail the whole call.
            with suppress(StorageUnavailable):
                rows = self._database.select(self._own.rows, {"keys": held})
                found |= {row.key: row for row in map(self._row, rows)}
        return [found.get(claim.key) for claim in claims]

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        batches = [self._batch(chunk) for chunk in chunks(results, lambda result: len(result[1]))]

        def work(executor: PostgresExecutor) -> None:
            for params in batches:
                executor.limit.allow(len(params["keys"]))
                executor.execute(self._own.put_many, params)

        (self._postgres.autocommit if len(batches) == 1 else self._postgres.in_transaction)(work)

    def _batch(self, results: Sequence[tuple[str, JsonText, datetime]]) -> dict[str, Any]:
        return {
            "table": self._table,
            "keys": [key for key, _, _ in results],
            "values": f"[{','.join(value for _, value, _ in results)}]",
            "saved_ats": [saved_at for _, _, saved_at in results],
        }
