"""Webhook nonces: each is accepted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from .. import validation as check
from ..retention import milliseconds
from .context import Context
from ..batching import BatchedCall

Registration = tuple[str, int | None]
"""A nonce, and its milliseconds unless the clock is to tell them."""


class Nonces:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._registering = BatchedCall(context, _register_one, _register_all)

    def register(self, nonce: str, timestamp: datetime | None = None) -> bool:
        """True the first time; False from then on, until the nonce is pruned by age.

        `timestamp` (default: now) is kept in whole milliseconds, rounded down. Of any number
        of callers that race with one nonce, one gets True.
        """
        check.name("nonce", nonce)
        moment = None if timestamp is None else _milliseconds(timestamp)
        return self._registering.call((nonce, moment))

    def register_many(
        self, nonces: Iterable[str | tuple[str, datetime | None]], *, timestamp: datetime | None = None
    ) -> list[bool]:
        """`register` for each, in order, all or nothing; of a nonce that is there twice, the second is False.

        A nonce may come with a timestamp of its own; `timestamp` is for the others.
        """
        if not isinstance(nonces, Iterable) or isinstance(nonces, str | bytes):
            raise check.wrong_type("nonces", "an iterable of nonces", nonces)
        common = None if timestamp is None else _milliseconds(timestamp)
        requests = [_with_time(nonce, common) for nonce in nonces]
        return _register_all(self._context, requests, self._context.now(None)) if requests else []

    def seen(self, nonce: str) -> bool:
        check.name("nonce", nonce)
        return self._context.backend.nonces.seen(nonce)


def registration(nonce: str, timestamp: datetime | None) -> Registration:
    return check.name("nonce", nonce), None if timestamp is None else _milliseconds(timestamp)


def _register_one(context: Context, request: Registration) -> bool:
    nonce, moment = request
    backend = context.backend
    if moment is None:
        moment = milliseconds(context.now(None))
    return backend.nonces.register(nonce, moment)


def _register_all(context: Context, requests: Sequence[Registration], now: datetime) -> list[bool]:
    at = milliseconds(now)
    rows = [(nonce, at if moment is None else moment) for nonce, moment in requests]
    distinct = dict(reversed(rows))
    if len(distinct) == len(rows):
        return [*context.backend.nonces.register_many(rows)]
    is_new = context.backend.nonces.register_many([*distinct.items()])
    answers = dict(zip(distinct, is_new, strict=True))
    return [answers.pop(nonce, False) for nonce, _ in rows]


def _milliseconds(timestamp: datetime) -> int:
    return milliseconds(check.utc("timestamp", timestamp))


def _with_time(nonce: object, common: int | None) -> Registration:
    if type(nonce) is tuple and len(nonce) == 2:
        name, timestamp = nonce
        return check.name("nonces", name), common if timestamp is None else _milliseconds(timestamp)
    return check.name("nonces", nonce), common
