from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.values import IdempotencyRow, JsonText, KeyClaim
from ...errors import StorageUnavailable
from ...records import IdempotencyRecord
from .database import Database, Executor, Row
from .store import SqlStore

_ROUNDS = 10
COLUMNS = "key, completed, value, saved_at, fingerprint, token, lease_until"
_RECORD = "key, value, saved_at, fingerprint"

TAKE_OVER = """
ON CONFLICT (key) DO UPDATE
SET saved_at = excluded.saved_at, token = excluded.token, lease_until = excluded.lease_until,
    fingerprint = coalesce(stored.fingerprint, excluded.fingerprint)
WHERE NOT stored.completed AND stored.lease_until <= excluded.saved_at
    AND (stored.fingerprint IS NULL OR excluded.fingerprint IS NULL
        OR stored.fingerprint = excluded.fingerprint)
"""

# A key that nobody has had yet, as nearly always. It tells as much as the next one does then, at a
# seventh less.
_CLAIM_NEW = """
INSERT INTO {t}idempotency (key, saved_at, completed, fingerprint, token, lease_until)
VALUES (:key, :now, FALSE, :fingerprint, :token, :lease_until)
ON CONFLICT (key) DO NOTHING
"""

_CLAIM = f"""
INSERT INTO {{t}}idempotency AS stored (key, saved_at, completed, fingerprint, token, lease_until)
VALUES (:key, :now, FALSE, :fingerprint, :token, :lease_until)
{TAKE_OVER}
RETURNING fingerprint
"""

_ROW = f"SELECT {COLUMNS} FROM {{t}}idempotency WHERE key = :key"

_COMPLETE = """
UPDATE {t}idempotency
SET completed = TRUE, value = :value{jsonb}, saved_at = :now, token = NULL, lease_until = NULL
WHERE key = :key AND token = :token AND NOT completed
"""

_ABANDON = "DELETE FROM {t}idempotency WHERE key = :key AND token = :token AND NOT completed"

OVERWRITE = """
ON CONFLICT (key) DO UPDATE
SET saved_at = excluded.saved_at, completed = TRUE, value = excluded.value,
    fingerprint = NULL, token = NULL, lease_until = NULL
"""

_PUT = f"""
INSERT INTO {{t}}idempotency (key, saved_at, completed, value)
VALUES (:key, :saved_at, TRUE, :value{{jsonb}})
{OVERWRITE}
RETURNING {_RECORD}
"""

_GET = f"SELECT {_RECORD} FROM {{t}}idempotency WHERE key = :key AND completed"


_make_row, _make_claim = IdempotencyRow, KeyClaim


class SqlIdempotencyStore(SqlStore):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._claim_new = self._render(_CLAIM_NEW)

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        bind = self._bind
        params = {
            "key": key,
            "fingerprint": fingerprint,
            "token": token,
            "lease_until": bind(lease_until),
            "now": bind(now),
        }
        if self._database.execute(self._claim_new, params):
            return _make_row(key, False, None, now, fingerprint, token, lease_until)
        claim = _make_claim(key, fingerprint, token, lease_until, now)
        for _ in range(_ROUNDS):
            row = self._read_one(_ROW, {"key": key}, self._row)
            if row is not None and not _may_be_taken(row, claim):
                return row
            taken = self._change_one(_CLAIM, params, lambda row: row)
            if taken is not None:
                return _taken(claim, taken)
        raise StorageUnavailable("the idempotency key is being claimed and given up all the time: try again")

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        statement, look = self._render(_CLAIM), self._render(_ROW)

        def claimed(connection: Executor, claim: KeyClaim) -> IdempotencyRow | None:
            taken = connection.row(statement, self._claim_params(claim))
            if taken is not None:
                return _taken(claim, taken)
            row = connection.row(look, {"key": claim.key})
            return None if row is None else self._row(row)

        return self._database.in_transaction(lambda connection: [claimed(connection, claim) for claim in claims])

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        params = {"key": key, "token": token, "value": value, "now": self._bind(now)}
        return self._change(_COMPLETE, params) > 0

    def abandon(self, key: str, token: int) -> bool:
        return self._change(_ABANDON, {"key": key, "token": token}) > 0

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        params = {"key": key, "value": value, "saved_at": self._bind(saved_at)}
        return self._write_one(_PUT, params, self._record)

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        self._each(
            _PUT,
            [
                {"key": key, "value": value, "saved_at": self._bind(saved_at)}
                for key, value, saved_at in results
            ],
        )

    def get(self, key: str) -> IdempotencyRecord | None:
        return self._read_one(_GET, {"key": key}, self._record)

    def _claim_params(self, claim: KeyClaim) -> dict[str, Any]:
        return {
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "token": claim.token,
            "lease_until": self._bind(claim.lease_until),
            "now": self._bind(claim.now),
        }

    def _row(self, row: Row) -> IdempotencyRow:
        key, completed, value, saved_at, fingerprint, token, lease_until = row
        return IdempotencyRow(
            key=key,
            completed=bool(completed),
            value=self._json(value),
            saved_at=self._time(saved_at),
            fingerprint=fingerprint,
            token=token,
            lease_until=self._time(lease_until),
        )

    def _record(self, row: Row) -> IdempotencyRecord:
        key, value, saved_at, fingerprint = row
        return IdempotencyRecord(key, self._json(value), self._time(saved_at), fingerprint)


def _may_be_taken(row: IdempotencyRow, claim: KeyClaim) -> bool:
    """As `TAKE_OVER` has it."""
    if row.lease_until is None or row.lease_until > claim.now:
        return False
    return row.fingerprint is None or claim.fingerprint in (None, row.fingerprint)


def _taken(claim: KeyClaim, row: Row) -> IdempotencyRow:
    """Only a fingerprint of an earlier claim is not the caller's."""
    return _make_row(claim.key, False, None, claim.now, row[0], claim.token, claim.lease_until)
