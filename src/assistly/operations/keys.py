"""Forgets idempotency keys of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage import NotFound
from assistly.views.keys import holder, key_state

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Storage
    from assistly.views.keys import KeyState

    from .audit import Person


def forget(storage: Storage, key: str, person: Person) -> KeyState:
    """Forget a key, so that its command can run again, and return what was stored under it.

    A job with the same key keeps it. Raises NotFound if no command is stored under the key.
    """

    def work(tx: Storage) -> KeyState:
        found = key_state(tx, key)
        if not tx.idempotency.forget(key):
            held = f"; {holder(found.job)} has it, and keeps it" if found.job else ""
            raise NotFound(f"no command is stored under the key {key!r}{held}")
        audit.record(tx, "keys.forget", person, key=key, state=found.state)
        return found

    return atomically(storage, work)
