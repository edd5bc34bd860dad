"""Sessions, approvals, idempotency keys, nonces: records under a key that the caller chose."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, islice
from math import inf
from typing import NamedTuple

from ...engine.values import IdempotencyRow, JsonText, KeyClaim
from ...records import Approval, IdempotencyRecord, Session
from .scope import Scope
from .tables import LONGEST_CHUNK, Journal, Key, Ordered, Table, within

LATEST: tuple[datetime, float] = (datetime.max.replace(tzinfo=UTC), inf)
"""Above every (time, insertion order)."""


class SessionRow(NamedTuple):
    user_id: str
    data: JsonText
    version: int
    updated_at: datetime

    def decoded(self) -> Session:
        return Session(self.user_id, json.loads(self.data), self.version, self.updated_at)


class SessionTable(Table[str, SessionRow]):
    def __init__(self, journal: Journal) -> None:
        self.by_user: Ordered[SessionRow] = Ordered(lambda row: (row.user_id,))
        self.by_time: Ordered[SessionRow] = Ordered(lambda row: (row.updated_at, row.user_id))
        super().__init__(journal, self.by_user, self.by_time)


class MemorySessionStore:
    def __init__(self, scope: Scope, table: SessionTable) -> None:
        self._scope = scope
        self._table = table

    def get(self, user_id: str, *, lock: bool = False) -> Session | None:  # noqa: ARG002 - as for jobs
        with self._scope:
            row = self._table.rows.get(user_id)
            return None if row is None else row.decoded()

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        with self._scope:
            old = self._table.rows.get(user_id)
            version = 0 if old is None else old.version
            if expected_version is not None and expected_version != version:
                return None
            row = SessionRow(user_id, data, version + 1, now)
            self._table.put(user_id, row)
            return row.decoded()

    def delete(self, user_id: str) -> bool:
        with self._scope:
            if user_id not in self._table.rows:
                return False
            self._table.delete(user_id)
            return True

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        with self._scope:
            keys = self._table.by_user.ascending(() if after is None else (after,))
            return [self._table.rows[key[0]].decoded() for key in islice(keys, limit)]


class ApprovalRow(NamedTuple):
    id: str
    status: str
    payload: JsonText
    created_at: datetime
    decided_at: datetime | None
    sequence: int

    def decoded(self) -> Approval:
        return Approval(
            self.id, self.status, json.loads(self.payload), self.created_at, self.decided_at, self.sequence
        )


class ApprovalTable(Table[str, ApprovalRow]):
    def __init__(self, journal: Journal) -> None:
        self.sequence = count(1)
        self.by_time: Ordered[ApprovalRow] = Ordered(lambda row: (row.created_at, row.sequence, row.id))
        self.by_status: Ordered[ApprovalRow] = Ordered(
            lambda row: (row.status, row.created_at, row.sequence, row.id)
        )
        super().__init__(journal, self.by_time, self.by_status)


class MemoryApprovalStore:
    def __init__(self, scope: Scope, table: ApprovalTable) -> None:
        self._scope = scope
        self._table = table

    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        with self._scope:
            if id in self._table.rows:
                return None
            row = ApprovalRow(id, status, payload, created_at, None, next(self._table.sequence))
            self._table.put(id, row)
            return row.decoded()

    def get(self, id: str, *, lock: bool = False) -> Approval | None:  # noqa: ARG002 - as for jobs
        with self._scope:
            row = self._table.rows.get(id)
            return None if row is None else row.decoded()

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        with self._scope:
            below: Key = LATEST if before is None else before
            if status is None:
                keys = self._table.by_time.descending(below)
            else:
                keys = within((status,), self._table.by_status.descending((status, *below)))
            return [self._table.rows[key[-1]].decoded() for key in islice(keys, limit)]

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        with self._scope:
            row = self._table.rows.get(id)
            if row is None or row.status != expected:
                return None
            payload = row.payload if payload is None else payload
            row = row._replace(status=status, payload=payload, decided_at=now)
            self._table.put(id, row)
            return row.decoded()


class KeyRow(NamedTuple):
    """`value` is None while the key is in progress; then `token` is the holder's."""

    key: str
    value: JsonText | None
    saved_at: datetime
    fingerprint: str | None
    token: int | None
    lease_until: datetime | None
    sequence: int

    def decoded(self) -> IdempotencyRow:
        completed = self.value is not None
        value = None if self.value is None else json.loads(self.value)
        return IdempotencyRow(
            self.key, completed, value, self.saved_at, self.fingerprint, self.token, self.lease_until
        )

    def may_be_taken(self, fingerprint: str | None, now: datetime) -> bool:
        if self.lease_until is None or self.lease_until > now:
            return False
        return None in (fingerprint, self.fingerprint) or fingerprint == self.fingerprint


class IdempotencyTable(Table[str, KeyRow]):
    def __init__(self, journal: Journal) -> None:
        self.sequence = count(1)
        self.by_time: Ordered[KeyRow] = Ordered(lambda row: (row.saved_at, row.sequence, row.key))
        super().__init__(journal, self.by_time)


class MemoryIdempotencyStore:
    def __init__(self, scope: Scope, table: IdempotencyTable) -> None:
        self._scope = scope
        self._table = table

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        with self._scope:
            row = self._table.rows.get(key)
            if row is None:
                row = KeyRow(key, None, now, fingerprint, token, lease_until, next(self._table.sequence))
                self._table.put(key, row)
            elif row.may_be_taken(fingerprint, now):
                fingerprint = fingerprint if row.fingerprint is None else row.fingerprint
                row = KeyRow(key, None, now, fingerprint, token, lease_until, row.sequence)
                self._table.put(key, row)
            return row.decoded()

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        with self._scope:
            return [
                self.claim(
                    claim.key,
                    fingerprint=claim.fingerprint,
                    token=claim.token,
                    lease_until=claim.lease_until,
                    now=claim.now,
                )
                for claim in claims
            ]

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        with self._scope:
            row = self._held(key, token)
            if row is None:
                return False
            self._table.put(key, KeyRow(key, value, now, row.fingerprint, None, None, row.sequence))
            return True

    def abandon(self, key: str, token: int) -> bool:
        with self._scope:
            if self._held(key, token) is None:
                return False
            self._table.delete(key)
            return True

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        with self._scope:
            old = self._table.rows.get(key)
            sequence = next(self._table.sequence) if old is None else old.sequence
            self._table.put(key, KeyRow(key, value, saved_at, None, None, None, sequence))
            return IdempotencyRecord(key, json.loads(value), saved_at, None)

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        table = self._table
        with self._scope:
            for key, value, saved_at in results:
                old = table.rows.get(key)
                sequence = next(table.sequence) if old is None else old.sequence
                table.put(key, KeyRow(key, value, saved_at, None, None, None, sequence))

    def get(self, key: str) -> IdempotencyRecord | None:
        with self._scope:
            row = self._table.rows.get(key)
            if row is None or row.value is None:
                return None
            return IdempotencyRecord(key, json.loads(row.value), row.saved_at, row.fingerprint)

    def _held(self, key: str, token: int) -> KeyRow | None:
        row = self._table.rows.get(key)
        return None if row is None or row.token != token else row


NonceRow = tuple[int, int, str]
"""(timestamp_ms, insertion order, nonce), which is its index key as well."""


class NonceTable(Table[str, NonceRow]):
    def __init__(self, journal: Journal) -> None:
        self.sequence = count(1)
        self.by_time: Ordered[NonceRow] = Ordered(lambda row: row)
        super().__init__(journal, self.by_time)

    def stored_by_time(self) -> Iterator[Key]:
        """The index, without keys that an interrupt left there before their rows were."""
        rows = self.rows
        return (key for key in self.by_time.ascending() if rows.get(key[-1]) is key)


class MemoryNonceStore:
    def __init__(self, scope: Scope, table: NonceTable) -> None:
        self._scope = scope
        self._table = table

    def register(self, nonce: str, timestamp_ms: int) -> bool:
        scope, table = self._scope, self._table
        database = scope.database
        with database.lock:
            if scope.closed:
                scope.check()
            rows = table.rows
            if nonce in rows:
                return False
            row = (timestamp_ms, next(table.sequence), nonce)
            newest = table.by_time.chunks[-1]
            if database.marks or not newest or row < newest[-1] or len(newest) >= LONGEST_CHUNK:
                with scope:
                    table.add(nonce, row)
            else:
                # What is cut off between these two has registered nothing: `stored_by_time` sees to the key.
                newest.append(row)
                rows[nonce] = row
            return True

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        table = self._table
        with self._scope:
            fresh = [nonce not in table.rows for nonce, _ in nonces]
            for (nonce, timestamp_ms), is_fresh in zip(nonces, fresh, strict=True):
                if is_fresh:
                    table.put(nonce, (timestamp_ms, next(table.sequence), nonce))
            return fresh

    def seen(self, nonce: str) -> bool:
        with self._scope:
            return nonce in self._table.rows
