from __future__ import annotations

import json
from collections.abc import Sequence

from ..sql.nonces import SqlNonceStore
from .work import SqliteWork

_REGISTER = "INSERT INTO {t}nonces (nonce, timestamp_ms) VALUES (?, ?) ON CONFLICT DO NOTHING"
# WHERE keeps the parser from taking ON for a join.
_REGISTER_MANY = """
INSERT INTO {t}nonces (nonce, timestamp_ms) SELECT key, value FROM json_each(:nonces) WHERE TRUE
ON CONFLICT (nonce) DO NOTHING
RETURNING nonce
"""


class SqliteNonceStore(SqlNonceStore):
    def __init__(self, database: SqliteWork) -> None:
        super().__init__(database)
        self._sqlite = database
        self._register = self._render(_REGISTER)

    def register(self, nonce: str, timestamp_ms: int) -> bool:
        return self._sqlite.execute(self._register, (nonce, timestamp_ms)) > 0

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        statement = self._render(_REGISTER_MANY)
        params = {"nonces": json.dumps(dict(nonces), ensure_ascii=False)}
        rows = self._database.autocommit(lambda connection: connection.rows(statement, params))
        new = {nonce for (nonce,) in rows}
        return [nonce in new for nonce, _ in nonces]
