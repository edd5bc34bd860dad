from __future__ import annotations

from .store import SqlStore

_REGISTER = """
INSERT INTO {t}nonces (nonce, timestamp_ms) VALUES (:nonce, :timestamp_ms)
ON CONFLICT (nonce) DO NOTHING
"""

_SEEN = "SELECT 1 FROM {t}nonces WHERE nonce = :nonce"


class SqlNonceStore(SqlStore):
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        return self._change(_REGISTER, {"nonce": nonce, "timestamp_ms": timestamp_ms}) > 0

    def seen(self, nonce: str) -> bool:
        return self._read_one(_SEEN, {"nonce": nonce}, bool) is not None
