from __future__ import annotations

import json
from collections.abc import Sequence

from ..sql.nonces import SqlNonceStore

# Without WHERE the parser would take ON for that of a join.
_REGISTER_MANY = """
    INSERT INTO assistly_nonces (nonce, timestamp_ms) SELECT key, value FROM json_each(:nonces) WHERE TRUE
    ON CONFLICT (nonce) DO NOTHING
    RETURNING nonce
"""


class SqliteNonceStore(SqlNonceStore):
    """A `NonceStore`."""

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        params = {"nonces": json.dumps(dict(nonces), ensure_ascii=False)}
        new = {nonce for (nonce,) in self._database.returning(_REGISTER_MANY, params)}
        return [nonce in new for nonce, _ in nonces]
