from __future__ import annotations

from collections.abc import Sequence

from ..sql.database import Executor, Row
from ..sql.dialect import Dialect
from ..sql.nonces import SqlNonceStore
from .batches import chunks


class PostgresNonceStatements:
    def __init__(self, d: Dialect) -> None:
        self.register_many = f"""
            INSERT INTO {d.t}nonces (nonce, timestamp_ms)
            SELECT nonce, timestamp_ms
            FROM unnest(%(nonces)s::text[], %(timestamps)s::bigint[]) AS new (nonce, timestamp_ms)
            ON CONFLICT (nonce) DO NOTHING
            RETURNING nonce
        """


class PostgresNonceStore(SqlNonceStore):
    """A `NonceStore`."""

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        statement = self._dialect.statements(PostgresNonceStatements).register_many
        # Rows are locked in one order, to avoid deadlocks between batches that share some.
        batches = [
            {
                "nonces": [nonce for nonce, _ in chunk],
                "timestamps": [moment for _, moment in chunk],
            }
            for chunk in chunks(sorted(nonces), lambda row: len(row[0]))
        ]

        def work(connection: Executor) -> list[Row]:
            return [row for params in batches for row in connection.rows(statement, params)]

        rows = self._database.autocommit(work) if len(batches) == 1 else self._database.in_transaction(work)
        new = {nonce for (nonce,) in rows}
        return [nonce in new for nonce, _ in nonces]
