"""Idempotency keys: a command that comes twice is run once, and answered twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from struct import Struct

from .. import validation as check
from ..engine.values import IdempotencyRow, KeyClaim
from ..errors import ClaimLost, Conflict, IdempotencyMismatch
from ..records import ClaimState, IdempotencyClaim, IdempotencyRecord, Json
from .context import Context
from ..batching import RETRY_SINGLY, Answer, BatchedCall, attempt

_make_claim = IdempotencyClaim

_LEASE = timedelta(seconds=60)


_ACQUIRED, _IN_PROGRESS, _COMPLETED = ClaimState.ACQUIRED, ClaimState.IN_PROGRESS, ClaimState.COMPLETED

ClaimRequest = tuple[str, str | None, int, timedelta, datetime | None]
"""The key, the fingerprint, the token, the lease, and the time unless the clock is to tell it."""

PutRequest = tuple[str, check.JsonText, datetime | None]


class Idempotency:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._claiming = BatchedCall(context, _claim_one, _claim_all)
        self._putting = BatchedCall(context, _put_one, _put_all, lambda request: len(request[1]))

    def claim(
        self,
        key: str,
        *,
        fingerprint: str | None = None,
        lease: timedelta = _LEASE,
        now: datetime | None = None,
    ) -> IdempotencyClaim:
        """Ask to run the command of this key.

        `acquired`: run it, then `complete` or `abandon`. `in_progress`: someone else is at it.
        `completed`: `value` is the first result. A claim that is not ended within `lease` can be
        acquired anew. Raises IdempotencyMismatch where the key was used with another `fingerprint`
        (a digest of the command, say), in whatever state it is.
        """
        return self._claiming.call(claim_request(key, fingerprint, lease, now))

    def complete(self, claim: IdempotencyClaim, value: Json, *, now: datetime | None = None) -> None:
        """Store the result. Raises ClaimLost if the claim was overtaken, ended or removed."""
        check.instance("claim", claim, IdempotencyClaim)
        text = check.canonical("value", value)
        at = self._context.now(now)
        if not self._context.backend.idempotency.complete(claim.key, claim.token, text, now=at):
            raise _lost(claim)

    def abandon(self, claim: IdempotencyClaim) -> None:
        """Free the key for the next one. Raises ClaimLost as `complete` does."""
        check.instance("claim", claim, IdempotencyClaim)
        if not self._context.backend.idempotency.abandon(claim.key, claim.token):
            raise _lost(claim)

    def put(self, key: str, value: Json, *, saved_at: datetime | None = None) -> IdempotencyRecord:
        """Store a result whatever was there, a claim in progress included."""
        return self._putting.call(put_request(key, value, saved_at))

    def put_many(
        self,
        results: Iterable[tuple[str, Json] | tuple[str, Json, datetime | None]],
        *,
        saved_at: datetime | None = None,
    ) -> list[IdempotencyRecord]:
        """`put` for each (key, value), in order, all or nothing; the last of equal keys stays.

        A result may come with a time of its own; `saved_at` is for the others.
        """
        if not isinstance(results, Iterable) or isinstance(results, str | bytes):
            raise check.wrong_type("results", "an iterable of (key, value)", results)
        common = check.optional_utc("saved_at", saved_at)
        requests = [_put_request(result, common) for result in results]
        return _put_all(self._context, requests, self._context.now(None)) if requests else []

    def get(self, key: str) -> IdempotencyRecord | None:
        """The stored result; None for a key that is unknown or in progress."""
        return self._context.backend.idempotency.get(check.name("key", key))

    def run_once(
        self,
        key: str,
        function: Callable[[], Json],
        *,
        fingerprint: str | None = None,
        lease: timedelta = _LEASE,
    ) -> Json:
        """The result of `function`, run now or by whoever came first with this key.

        An exception of the function abandons the key and is passed on. Raises Conflict while
        someone else is running it, and ClaimLost if it took longer than `lease` and was overtaken.
        """
        if not callable(function):
            raise check.wrong_type("function", "callable", function)
        claim = self.claim(key, fingerprint=fingerprint, lease=lease)
        if claim.state is _COMPLETED:
            return claim.value
        if claim.state is _IN_PROGRESS:
            raise in_progress(claim)
        try:
            value = function()
            check.canonical("the result of function", value)
        except BaseException:
            self._context.backend.idempotency.abandon(claim.key, claim.token)
            raise
        self.complete(claim, value)
        return value


def claim_request(key: str, fingerprint: str | None, lease: timedelta, now: datetime | None) -> ClaimRequest:
    return (
        check.name("key", key),
        None if fingerprint is None else check.name("fingerprint", fingerprint),
        _new_token(),
        lease if lease is _LEASE else check.duration("lease", lease, zero=False),
        None if now is None else check.utc("now", now),
    )


_TOKENS = Struct("64Q")
_tokens: list[int] = []


def _new_token() -> int:
    """One that no other process has: some are drawn ahead, since each draw is a call of the system."""
    try:
        return _tokens.pop()
    except IndexError:
        drawn: tuple[int, ...] = _TOKENS.unpack(os.urandom(_TOKENS.size))
        first, *others = [number >> 1 for number in drawn]
        _tokens.extend(others)
        return first


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tokens.clear)


def _claim_one(context: Context, request: ClaimRequest) -> IdempotencyClaim:
    key, fingerprint, token, lease, now = request
    backend = context.backend
    at = context.now(now)
    row = backend.idempotency.claim(
        key, fingerprint=fingerprint, token=token, lease_until=check.later(at, lease), now=at
    )
    return _claim(row, request)


def _claim_all(context: Context, requests: Sequence[ClaimRequest], now: datetime) -> Sequence[Answer]:
    """Who comes second with a key goes alone: what it finds is up to the first."""
    first: dict[str, ClaimRequest] = {}
    for request in requests:
        first.setdefault(request[0], request)
    rows = context.backend.idempotency.claim_many([_key_claim(request, now) for request in first.values()])
    answers: dict[str, Answer] = {
        key: RETRY_SINGLY if row is None else attempt(lambda given: _claim(*given), (row, request))
        for (key, request), row in zip(first.items(), rows, strict=True)
    }
    return [answers[request[0]] if first[request[0]] is request else RETRY_SINGLY for request in requests]


def _put_one(context: Context, request: PutRequest) -> IdempotencyRecord:
    key, text, saved_at = request
    return context.backend.idempotency.put(key, text, saved_at=context.now(saved_at))


def _put_all(context: Context, requests: Sequence[PutRequest], now: datetime) -> list[IdempotencyRecord]:
    rows = [(key, text, saved_at or now) for key, text, saved_at in requests]
    last = {row[0]: row for row in rows}
    context.backend.idempotency.put_many([*last.values()])
    return [IdempotencyRecord(key, json.loads(text), saved_at, None) for key, text, saved_at in rows]


def put_request(key: str, value: Json, saved_at: datetime | None) -> PutRequest:
    return (
        check.name("key", key),
        check.canonical("value", value),
        check.optional_utc("saved_at", saved_at),
    )


def _put_request(result: object, common: datetime | None) -> PutRequest:
    if type(result) is not tuple or len(result) not in (2, 3):
        raise check.wrong_type("results", "pairs of a key and a value", result)
    key, text, saved_at = put_request(*result, *[None] * (3 - len(result)))
    return key, text, saved_at or common


def _key_claim(request: ClaimRequest, clock: datetime) -> KeyClaim:
    key, fingerprint, token, lease, now = request
    at = now or clock
    return KeyClaim(key, fingerprint, token, check.later(at, lease), at)


def in_progress(claim: IdempotencyClaim) -> Conflict:
    return Conflict(
        f"key {claim.key!r} is in progress elsewhere until {claim.lease_until}: ask again after that"
    )


def _claim(row: IdempotencyRow, request: ClaimRequest) -> IdempotencyClaim:
    key, fingerprint, token = request[:3]
    if fingerprint is not None and row.fingerprint not in (None, fingerprint):
        raise IdempotencyMismatch(
            f"key {key!r} was used for another command: its fingerprint is {row.fingerprint!r}, "
            f"not {fingerprint!r}",
            key,
        )
    if row.completed:
        state = _COMPLETED
    elif row.token == token:
        state = _ACQUIRED
    else:
        state = _IN_PROGRESS
    return _make_claim(row.key, state, row.value, row.fingerprint, row.lease_until, token)


def _lost(claim: IdempotencyClaim) -> ClaimLost:
    return ClaimLost(f"the claim on key {claim.key!r} is no longer held: it was overtaken, ended or removed")
