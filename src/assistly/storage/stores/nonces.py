"""Webhook nonces: each is accepted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from .. import validation as check
from ..batching import BatchedCall
from ..retention import milliseconds
from .context import Context

Registration = tuple[str, datetime | None]
"""A validated nonce, and its timestamp; None stands for the time of the call."""


class Nonces:
    """`storage.nonces`: remembers the nonces of webhooks, so that each is accepted once.

    A nonce is a name of 1 to 512 bytes of UTF-8. Nonces are deleted by age (RETENTION_NONCES_DAYS).
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._batched = BatchedCall(context, _register_single, _register_batch)

    def register(self, nonce: str, timestamp: datetime | None = None) -> bool:
        """Store a nonce; return True the first time, and False after that, until it is pruned by age.

        `timestamp` (default: now) determines the nonce's age; it is stored in whole milliseconds, rounded
        down. If several callers register the same nonce at once, exactly one gets True. Raises InvalidValue
        for an invalid nonce, or a timestamp without a time zone.
        """
        return self._batched.call(registration(nonce, timestamp))

    def register_many(
        self, nonces: Iterable[str | tuple[str, datetime | None]], *, timestamp: datetime | None = None
    ) -> list[bool]:
        """Store several nonces like `register`, all or nothing, and return the results in order.

        Each is a nonce or (nonce, timestamp); `timestamp` (default: now) is for nonces without one. If a
        nonce occurs twice, its second result is False. Raises InvalidValue like `register`.
        """
        common = check.optional_utc("timestamp", timestamp)
        requests = [_pair(nonce, common) for nonce in check.items("nonces", nonces, "nonces")]
        return _register_batch(self._context, requests, self._context.now(None)) if requests else []

    def seen(self, nonce: str) -> bool:
        """Return whether the nonce is stored. Registers nothing."""
        check.name("nonce", nonce)
        return self._context.backend.nonces.seen(nonce)


def registration(nonce: str, timestamp: datetime | None) -> Registration:
    """Validate the arguments of `register`."""
    return check.name("nonce", nonce), check.optional_utc("timestamp", timestamp)


def _pair(nonce: object, common: datetime | None) -> Registration:
    timestamp = None
    if type(nonce) is tuple and len(nonce) == 2:
        nonce, timestamp = nonce
    return check.name("nonces", nonce), check.optional_utc("timestamp", timestamp) or common


def _register_single(context: Context, request: Registration) -> bool:
    nonce, timestamp = request
    backend = context.backend
    return backend.nonces.register(nonce, milliseconds(timestamp or context.now(None)))


def _register_batch(context: Context, requests: Sequence[Registration], now: datetime) -> list[bool]:
    first: dict[str, datetime | None] = {}
    for nonce, timestamp in requests:
        first.setdefault(nonce, timestamp)
    rows = [(nonce, milliseconds(timestamp or now)) for nonce, timestamp in first.items()]
    is_new = dict(zip(first, context.backend.nonces.register_many(rows), strict=True))
    # `pop`, so that only the first of equal nonces is new.
    return [is_new.pop(nonce, False) for nonce, _ in requests]
