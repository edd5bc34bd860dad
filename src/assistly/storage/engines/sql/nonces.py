from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .store import SqlStore

_REGISTER = """
INSERT INTO {t}nonces (nonce, timestamp_ms) VALUES (:nonce, :timestamp_ms)
ON CONFLICT (nonce) DO NOTHING
"""

_SEEN = "SELECT 1 FROM {t}nonces WHERE nonce = :nonce"


class SqlNonceStore(SqlStore, ABC):
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        return self._change(_REGISTER, {"nonce": nonce, "timestamp_ms": timestamp_ms}) > 0

    @abstractmethod
    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]: ...

    def seen(self, nonce: str) -> bool:
        return self._read_one(_SEEN, {"nonce": nonce}, bool) is not None
