"""Idempotency keys: a command that arrives twice runs once, and both callers get the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from .. import validation as check
from ..batching import RETRY_SINGLY, Answer, BatchedCall, answer_of
from ..engine.values import IdempotencyRow, KeyClaim
from ..errors import ClaimLost, Conflict, IdempotencyMismatch, StorageError
from ..records import ClaimState, IdempotencyClaim, IdempotencyRecord, Json, JsonResult, JsonValue, record
from .context import Context

DEFAULT_LEASE = timedelta(seconds=60)


@record
class ClaimRequest:
    """The validated arguments of `claim`. `token` identifies this caller."""

    key: str
    fingerprint: str | None
    token: int
    lease: timedelta
    now: datetime | None

    def at(self, clock: datetime) -> KeyClaim:
        """The claim for the engine, at the time of the caller, else of the clock."""
        now = self.now or clock
        return KeyClaim(self.key, self.fingerprint, self.token, check.later(now, self.lease), now)


PutRequest = tuple[str, check.JsonText, datetime | None]
"""The validated key, value and time of a result; None stands for the time of the call."""


class Idempotency:
    """`storage.idempotency`: runs a command once per key, and returns its first result again.

    Keys and fingerprints are names of 1 to 512 bytes of UTF-8; a result is JSON of at most 1 MiB. Keys
    are deleted by age (RETENTION_IDEMPOTENCY_DAYS) and by count (RETENTION_MAX_IDEMPOTENCY).
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._claiming = BatchedCall(context, _claim_single, _claim_batch)
        self._putting = BatchedCall(context, _put_single, _put_batch, lambda request: len(request[1]))

    def claim(
        self,
        key: str,
        *,
        fingerprint: str | None = None,
        lease: timedelta = DEFAULT_LEASE,
        now: datetime | None = None,
    ) -> IdempotencyClaim:
        """Try to acquire a key to run its command; `state` of the result says what to do.

        `acquired`: run the command, then call `complete` or `abandon`. `in_progress`: another caller
        holds the key. `completed`: `value` is the first result. If a claim is not completed within
        `lease` (default: 60 seconds), another caller can acquire the key. Raises IdempotencyMismatch if
        the key was used with another `fingerprint` (a digest of the command, for example).
        """
        return self._claiming.call(claim_request(key, fingerprint, lease, now))

    def complete(self, claim: IdempotencyClaim, value: Json, *, now: datetime | None = None) -> None:
        """Store the result of an acquired claim.

        Raises ClaimLost if the claim was overtaken, has ended, or its key was removed; nothing is stored
        then. Raises InvalidValue for a value that is not JSON.
        """
        _checked(claim)
        self._complete(claim, check.canonical("value", value), now=now)

    def abandon(self, claim: IdempotencyClaim) -> None:
        """Free the key of an acquired claim, so that the command can be run again.

        Raises ClaimLost if the claim was overtaken, has ended, or its key was removed.
        """
        _checked(claim)
        if not self._context.backend.idempotency.abandon(claim.key, claim.token):
            raise _lost(claim)

    def put(self, key: str, value: Json, *, saved_at: datetime | None = None) -> IdempotencyRecord:
        """Store a result for a key unconditionally, even if the key is in progress, and return the record.

        `saved_at` (default: now) determines the key's age. Raises InvalidValue for a value that is not JSON.
        """
        return self._putting.call(put_request(key, value, saved_at))

    def put_many(
        self,
        results: Iterable[tuple[str, Json] | tuple[str, Json, datetime | None]],
        *,
        saved_at: datetime | None = None,
    ) -> list[IdempotencyRecord]:
        """Store several results like `put`, in order, all or nothing, and return their records.

        Each result is (key, value) or (key, value, saved_at); `saved_at` (default: now) is the time of
        results without one. If a key occurs twice, the last value is stored.
        """
        common = check.optional_utc("saved_at", saved_at)
        given = check.items("results", results, "(key, value)")
        requests = [_one_of_many(result, common) for result in given]
        return _put_batch(self._context, requests, self._context.now(None)) if requests else []

    def get(self, key: str) -> IdempotencyRecord | None:
        """Return the stored result of a key; None if the key is unknown, or its command is in progress."""
        return self._context.backend.idempotency.get(check.name("key", key))

    def peek(self, key: str) -> IdempotencyClaim | None:
        """Return what `claim` would find, without acquiring the key; None if the key is unknown.

        The state is `completed` or `in_progress`, even after the lease has expired. The result cannot be
        passed to `complete` or `abandon`: they raise ClaimLost.
        """
        row = self._context.backend.idempotency.row(check.name("key", key))
        return None if row is None else _as_claim(row, ClaimState.IN_PROGRESS, _new_token())

    def forget(self, key: str) -> bool:
        """Delete a key, whether its command is in progress or has a result; False if the key is unknown.

        The command can then run again, even if it is still running: that caller's claim is lost.
        """
        return self._context.backend.idempotency.forget(check.name("key", key))

    def run_once(
        self,
        key: str,
        function: Callable[[], JsonResult],
        *,
        fingerprint: str | None = None,
        lease: timedelta = DEFAULT_LEASE,
    ) -> JsonResult:
        """Run `function` unless the key already has a result, and return the result.

        If the function raises, the key is abandoned and the exception is raised again. Raises Conflict while
        another caller runs the command of the key, ClaimLost if the function took longer than `lease`
        (default: 60 seconds) and another caller took the key, IdempotencyMismatch as `claim` does, and
        InvalidValue for a result that is not JSON.
        """
        check.function("function", function)
        claim = self.claim(key, fingerprint=fingerprint, lease=lease)
        if claim.state is not ClaimState.ACQUIRED:
            first: JsonResult = replayed(claim)
            return first
        try:
            value = function()
            text = result_text(value)
        except BaseException:
            # If this fails, the key is free when its lease has expired.
            with suppress(StorageError):
                self._context.backend.idempotency.abandon(claim.key, claim.token)
            raise
        self._complete(claim, text)
        return value

    def _complete(
        self, claim: IdempotencyClaim, text: check.JsonText, *, now: datetime | None = None
    ) -> None:
        at = self._context.now(now)
        if not self._context.backend.idempotency.complete(claim.key, claim.token, text, now=at):
            raise _lost(claim)


def claim_request(key: str, fingerprint: str | None, lease: timedelta, now: datetime | None) -> ClaimRequest:
    """Validate the arguments of `claim`."""
    return ClaimRequest(
        check.name("key", key),
        check.optional_name("fingerprint", fingerprint),
        _new_token(),
        check.duration("lease", lease, zero=False),
        check.optional_utc("now", now),
    )


def put_request(key: str, value: Json, saved_at: datetime | None) -> PutRequest:
    """Validate the arguments of `put`."""
    return (
        check.name("key", key),
        check.canonical("value", value),
        check.optional_utc("saved_at", saved_at),
    )


def result_text(value: Json) -> check.JsonText:
    """The canonical text of what a function of `run_once` returned."""
    return check.result("function", value)


def replayed(claim: IdempotencyClaim) -> JsonValue:
    """Return the first result of a key that was not acquired. Raises Conflict if it is in progress."""
    if claim.state is ClaimState.COMPLETED:
        return claim.value
    raise Conflict(
        f"key {claim.key!r} is held by another caller until {claim.lease_until}: try again after that"
    )


def _checked(claim: object) -> None:
    claim = check.instance("claim", claim, IdempotencyClaim)
    check.name("claim.key", claim.key)
    check.whole("claim.token", claim.token, least=0, most=check.MAX_ID)


def _new_token() -> int:
    """63 random bits from the operating system, so that a forked child gets other ones than its parent."""
    return int.from_bytes(os.urandom(8)) >> 1


def _one_of_many(result: object, common: datetime | None) -> PutRequest:
    if type(result) is not tuple or len(result) not in (2, 3):
        raise check.wrong_type("results", "pairs of a key and a value", result)
    key, text, saved_at = put_request(*result, *[None] * (3 - len(result)))
    return key, text, saved_at or common


def _claim_single(context: Context, request: ClaimRequest) -> IdempotencyClaim:
    backend = context.backend
    claim = request.at(context.lease_now(request.now))
    row = backend.idempotency.claim(
        claim.key,
        fingerprint=claim.fingerprint,
        token=claim.token,
        lease_until=claim.lease_until,
        now=claim.now,
    )
    return _claim(row, request)


def _claim_batch(context: Context, requests: Sequence[ClaimRequest], _: datetime) -> Sequence[Answer]:
    """Claim a batch of keys. Later claims of the same key are retried singly, after the first one."""
    now = context.lease_now(None)
    first: dict[str, ClaimRequest] = {}
    for request in requests:
        first.setdefault(request.key, request)
    rows = context.backend.idempotency.claim_many([request.at(now) for request in first.values()])
    by_key = dict(zip(first, rows, strict=True))

    def answer(request: ClaimRequest) -> Answer:
        row = by_key[request.key]
        if row is None or first[request.key] is not request:
            return RETRY_SINGLY
        return answer_of(lambda request: _claim(row, request), request)

    return [answer(request) for request in requests]


def _put_single(context: Context, request: PutRequest) -> IdempotencyRecord:
    key, text, saved_at = request
    return context.backend.idempotency.put(key, text, saved_at=context.now(saved_at))


def _put_batch(context: Context, requests: Sequence[PutRequest], now: datetime) -> list[IdempotencyRecord]:
    rows = [(key, text, saved_at or now) for key, text, saved_at in requests]
    last = {row[0]: row for row in rows}
    context.backend.idempotency.put_many([*last.values()])
    return [IdempotencyRecord(key, json.loads(text), saved_at, None) for key, text, saved_at in rows]


def _claim(row: IdempotencyRow, request: ClaimRequest) -> IdempotencyClaim:
    fingerprint = request.fingerprint
    if fingerprint is not None and row.fingerprint not in (None, fingerprint):
        raise IdempotencyMismatch(
            f"key {row.key!r} was used for another command: its fingerprint is {row.fingerprint!r}, "
            f"not {fingerprint!r}",
            row.key,
        )
    is_mine = row.token == request.token
    return _as_claim(row, ClaimState.ACQUIRED if is_mine else ClaimState.IN_PROGRESS, request.token)


def _as_claim(row: IdempotencyRow, state: ClaimState, token: int) -> IdempotencyClaim:
    """The claim for a caller with this token; `state` is that of a key without a result."""
    if row.completed:
        state = ClaimState.COMPLETED
    return IdempotencyClaim(row.key, state, row.value, row.fingerprint, row.lease_until, token)


def _lost(claim: IdempotencyClaim) -> ClaimLost:
    return ClaimLost(f"the claim on key {claim.key!r} is no longer held: it was overtaken, ended or removed")
