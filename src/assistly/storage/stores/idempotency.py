"""Idempotency keys: a command that comes twice is run once, and answered twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta

from .. import validation as check
from ..backend import IdempotencyRow
from ..errors import ClaimLost, Conflict, IdempotencyMismatch
from ..records import ClaimState, IdempotencyClaim, IdempotencyRecord, Json
from .context import Context

_LEASE = timedelta(seconds=60)


class Idempotency:
    def __init__(self, context: Context) -> None:
        self._context = context

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
        check.name("key", key)
        check.optional_name("fingerprint", fingerprint)
        check.duration("lease", lease, zero=False)
        at = self._context.now(now)
        token = int.from_bytes(os.urandom(8)) >> 1
        row = self._context.backend.idempotency.claim(
            key, fingerprint=fingerprint, token=token, lease_until=check.later(at, lease), now=at
        )
        if fingerprint is not None and row.fingerprint not in (None, fingerprint):
            raise IdempotencyMismatch(
                f"key {key!r} was used for another command: its fingerprint is {row.fingerprint!r}, "
                f"not {fingerprint!r}",
                key,
            )
        return _claim(row, token)

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
        check.name("key", key)
        text = check.canonical("value", value)
        at = self._context.now(check.optional_moment("saved_at", saved_at))
        return self._context.backend.idempotency.put(key, text, saved_at=at)

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
        if claim.state is ClaimState.COMPLETED:
            return claim.value
        if claim.state is ClaimState.IN_PROGRESS:
            raise in_progress(claim)
        try:
            value = function()
            check.canonical("the result of function", value)
        except BaseException:
            self._context.backend.idempotency.abandon(claim.key, claim.token)
            raise
        self.complete(claim, value)
        return value


def in_progress(claim: IdempotencyClaim) -> Conflict:
    return Conflict(
        f"key {claim.key!r} is in progress elsewhere until {claim.lease_until}: ask again after that"
    )


def _claim(row: IdempotencyRow, token: int) -> IdempotencyClaim:
    if row.completed:
        state = ClaimState.COMPLETED
    else:
        state = ClaimState.ACQUIRED if row.token == token else ClaimState.IN_PROGRESS
    return IdempotencyClaim(row.key, state, row.value, row.fingerprint, row.lease_until, token)


def _lost(claim: IdempotencyClaim) -> ClaimLost:
    return ClaimLost(f"the claim on key {claim.key!r} is no longer held: it was overtaken, ended or removed")
