from __future__ import annotations

import json
from collections.abc import Sequence

from ..sql.nonces import SqlNonceStore

# WHERE keeps the parser from taking ON for a join.
_REGISTER_MANY = """
INSERT INTO {t}nonces (nonce, timestamp_ms) SELECT key, value FROM json_each(:nonces) WHERE TRUE
ON CONFLICT (nonce) DO NOTHING
RETURNING nonce
"""


class SqliteNonceStore(SqlNonceStore):
    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        statement = self._render(_REGISTER_MANY)
        params = {"nonces": json.dumps(dict(nonces), ensure_ascii=False)}
        rows = self._database.single(lambda connection: connection.rows(statement, params))
        new = {nonce for (nonce,) in rows}
        return [nonce in new for nonce, _ in nonces]
