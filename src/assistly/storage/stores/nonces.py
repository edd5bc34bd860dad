"""Webhook nonces: each is accepted once."""

from __future__ import annotations

from datetime import datetime

from .. import validation as check
from ..retention import milliseconds
from .context import Context


class Nonces:
    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, nonce: str, timestamp: datetime | None = None) -> bool:
        """True the first time; False from then on, until the nonce is pruned by age.

        `timestamp` (default: now) is kept in whole milliseconds, rounded down. Of any number
        of callers that race with one nonce, one gets True.
        """
        check.name("nonce", nonce)
        return self._context.backend.nonces.register(nonce, milliseconds(self._context.now(timestamp)))

    def seen(self, nonce: str) -> bool:
        check.name("nonce", nonce)
        return self._context.backend.nonces.seen(nonce)
