from __future__ import annotations

from .store import SqlStore

_REGISTER = """
INSERT INTO {t}nonces (nonce, timestamp_ms) VALUES (:nonce, :timestamp_ms)
ON CONFLICT (nonce) DO NOTHING
"""

_SEEN = "SELECT 1 FROM {t}nonces WHERE nonce = :nonce"


class SqlNonceStore(SqlStore):
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        statement = self._render(_REGISTER)
        params = {"nonce": nonce, "timestamp_ms": timestamp_ms}
        return self._database.single(lambda connection: connection.execute(statement, params)) > 0

    def seen(self, nonce: str) -> bool:
        statement = self._render(_SEEN)
        params = {"nonce": nonce}
        return self._database.read(lambda connection: connection.row(statement, params)) is not None
