from __future__ import annotations

from collections.abc import Sequence

from ..sql.database import Executor, Row
from ..sql.nonces import SqlNonceStore
from .batches import chunks
from .dialect import int_array, text_array

_REGISTER_MANY = """
INSERT INTO {t}nonces (nonce, timestamp_ms)
SELECT nonce, timestamp_ms FROM unnest(:nonces::text[], :timestamps::bigint[]) AS new (nonce, timestamp_ms)
ON CONFLICT (nonce) DO NOTHING
RETURNING nonce
"""


class PostgresNonceStore(SqlNonceStore):
    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        statement = self._render(_REGISTER_MANY)
        # In one order for all, so that batches which share some wait in a line and not in a circle.
        batches = [
            {
                "nonces": text_array(nonce for nonce, _ in chunk),
                "timestamps": int_array(moment for _, moment in chunk),
            }
            for chunk in chunks(sorted(nonces), lambda row: len(row[0]))
        ]

        def work(connection: Executor) -> list[Row]:
            return [row for params in batches for row in connection.rows(statement, params)]

        rows = self._database.autocommit(work) if len(batches) == 1 else self._database.in_transaction(work)
        new = {nonce for (nonce,) in rows}
        return [nonce in new for nonce, _ in nonces]
