from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ... import transitions
from ...engine.base import BackendBase
from ...engine.values import IdempotencyRow, JsonText, KeyClaim
from ...errors import StorageUnavailable
from ...records import IdempotencyRecord
from .database import Database, Executor, Row
from .dialect import Dialect
from .store import SqlStore

_ROUNDS = 10
KEY_COLUMNS = "key, completed, value, saved_at, fingerprint, token, lease_until"
_RECORD = "key, value, saved_at, fingerprint"

TAKE_OVER = """
    ON CONFLICT (key) DO UPDATE
    SET saved_at = excluded.saved_at, token = excluded.token, lease_until = excluded.lease_until,
        fingerprint = coalesce(stored.fingerprint, excluded.fingerprint)
    WHERE NOT stored.completed AND stored.lease_until <= excluded.saved_at
        AND (stored.fingerprint IS NULL OR excluded.fingerprint IS NULL
            OR stored.fingerprint = excluded.fingerprint)
"""
"""Follows an INSERT INTO … AS stored; does the same as `transitions.key_taken`."""

OVERWRITE = """
    ON CONFLICT (key) DO UPDATE
    SET saved_at = excluded.saved_at, completed = TRUE, value = excluded.value,
        fingerprint = NULL, token = NULL, lease_until = NULL
"""
"""Follows an INSERT; does the same as `transitions.key_put`."""


class IdempotencyStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}idempotency"
        columns = "(key, saved_at, completed, fingerprint, token, lease_until)"
        values = f"({p.key}, {p.now}, FALSE, {p.fingerprint}, {p.token}, {p.lease_until})"
        is_held = f"key = {p.key} AND token = {p.token} AND NOT completed"
        self.claim_new = f"INSERT INTO {table} {columns} VALUES {values} ON CONFLICT (key) DO NOTHING"
        self.claim = f"""
            INSERT INTO {table} AS stored {columns} VALUES {values}
            {TAKE_OVER}
            RETURNING fingerprint
        """
        self.row = f"SELECT {KEY_COLUMNS} FROM {table} WHERE key = {p.key}"
        self.complete = f"""
            UPDATE {table}
            SET completed = TRUE, value = {p.value}{d.jsonb}, saved_at = {p.now}, token = NULL,
                lease_until = NULL
            WHERE {is_held}
        """
        self.abandon = f"DELETE FROM {table} WHERE {is_held}"
        self.forget = f"DELETE FROM {table} WHERE key = {p.key}"
        self.put = f"""
            INSERT INTO {table} (key, saved_at, completed, value)
            VALUES ({p.key}, {p.saved_at}, TRUE, {p.value}{d.jsonb})
            {OVERWRITE}
            RETURNING {_RECORD}
        """
        self.get = f"SELECT {_RECORD} FROM {table} WHERE key = {p.key} AND completed"


class SqlIdempotencyStore(SqlStore):
    """An `IdempotencyStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(IdempotencyStatements)

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        claim = KeyClaim(key, fingerprint, token, lease_until, now)
        params = self._claim_params(claim)
        # DO NOTHING first: unlike DO UPDATE it does not lock the row of a key that exists.
        if self._database.execute(self._sql.claim_new, params):
            return _taken(claim, fingerprint)
        for _ in range(_ROUNDS):
            row = self.row(key)
            if row is not None and transitions.key_taken(row, claim) is None:
                return row
            taken = self._database.returning(self._sql.claim, params)
            if taken:
                return _taken(claim, taken[0][0])
        raise StorageUnavailable(
            f"the idempotency key {key!r} was claimed and abandoned by others in each of {_ROUNDS} attempts: "
            "try again"
        )

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        def claimed(connection: Executor, claim: KeyClaim) -> IdempotencyRow | None:
            taken = connection.row(self._sql.claim, self._claim_params(claim))
            if taken is not None:
                return _taken(claim, taken[0])
            row = connection.row(self._sql.row, {"key": claim.key})
            return None if row is None else self._row(row)

        return self._database.in_transaction(
            lambda connection: [claimed(connection, claim) for claim in claims]
        )

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        params = {"key": key, "token": token, "value": value, "now": self._bind(now)}
        return self._database.execute(self._sql.complete, params) > 0

    def abandon(self, key: str, token: int) -> bool:
        return self._database.execute(self._sql.abandon, {"key": key, "token": token}) > 0

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        (row,) = self._database.returning(self._sql.put, self._put_params(key, value, saved_at))
        return self._record(row)

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        def work(connection: Executor) -> None:
            for key, value, saved_at in results:
                connection.rows(self._sql.put, self._put_params(key, value, saved_at))

        self._database.in_transaction(work)

    def get(self, key: str) -> IdempotencyRecord | None:
        return self._select_one(self._sql.get, {"key": key}, self._record)

    def row(self, key: str) -> IdempotencyRow | None:
        return self._select_one(self._sql.row, {"key": key}, self._row)

    def forget(self, key: str) -> bool:
        return self._database.execute(self._sql.forget, {"key": key}) > 0

    def _claim_params(self, claim: KeyClaim) -> dict[str, Any]:
        return {
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "token": claim.token,
            "lease_until": self._bind(claim.lease_until),
            "now": self._bind(claim.now),
        }

    def _put_params(self, key: str, value: JsonText, saved_at: datetime) -> dict[str, Any]:
        return {"key": key, "value": value, "saved_at": self._bind(saved_at)}

    def _row(self, row: Row) -> IdempotencyRow:
        key, completed, value, saved_at, fingerprint, token, lease_until = row
        return IdempotencyRow(
            key,
            bool(completed),
            self._json(value),
            self._time(saved_at),
            fingerprint,
            token,
            self._optional_time(lease_until),
        )

    def _record(self, row: Row) -> IdempotencyRecord:
        key, value, saved_at, fingerprint = row
        return IdempotencyRecord(key, self._json(value), self._time(saved_at), fingerprint)


def _taken(claim: KeyClaim, fingerprint: str | None) -> IdempotencyRow:
    """The row of a key that this claim has taken; its fingerprint may be that of an earlier claim."""
    return IdempotencyRow(claim.key, False, None, claim.now, fingerprint, claim.token, claim.lease_until)
