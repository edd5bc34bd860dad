from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ...engine.base import BackendBase
from .database import Database
from .dialect import Dialect
from .store import SqlStore


class NonceStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}nonces"
        self.register = f"""
            INSERT INTO {table} (nonce, timestamp_ms) VALUES ({p.nonce}, {p.timestamp_ms})
            ON CONFLICT (nonce) DO NOTHING
        """
        self.seen = f"SELECT 1 FROM {table} WHERE nonce = {p.nonce}"


class SqlNonceStore(SqlStore, ABC):
    """A `NonceStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(NonceStatements)

    def register(self, nonce: str, timestamp_ms: int) -> bool:
        return self._database.execute(self._sql.register, {"nonce": nonce, "timestamp_ms": timestamp_ms}) > 0

    @abstractmethod
    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]: ...

    def seen(self, nonce: str) -> bool:
        return bool(self._database.select(self._sql.seen, {"nonce": nonce}))
