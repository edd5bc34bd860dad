from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...engine.base import BackendBase
from ..sql.database import Row
from ..sql.dialect import Dialect
from ..sql.nonces import SqlNonceStore
from .batches import chunks
from .executor import PostgresExecutor
from .server import PostgresWork


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

    def __init__(self, backend: BackendBase, database: PostgresWork) -> None:
        super().__init__(backend, database)
        self._postgres = database

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        statement = self._dialect.statements(PostgresNonceStatements).register_many
        # Rows are locked in one order, to avoid deadlocks between batches that share some.
        batches: list[dict[str, list[Any]]] = [
            {
                "nonces": [nonce for nonce, _ in chunk],
                "timestamps": [moment for _, moment in chunk],
            }
            for chunk in chunks(sorted(nonces), lambda row: len(row[0]))
        ]

        def work(executor: PostgresExecutor) -> list[Row]:
            return [
                row for params in batches for row in executor.batch(len(params["nonces"]), statement, params)
            ]

        rows = self._postgres.autocommit(work) if len(batches) == 1 else self._postgres.in_transaction(work)
        new = {nonce for (nonce,) in rows}
        return [nonce in new for nonce, _ in nonces]
