"""Deletes sessions of users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage import NotFound

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Storage

    from .audit import Person


def delete(storage: Storage, user_id: str, person: Person) -> None:
    """Delete the session of a user. Raises NotFound if there is none."""

    def work(tx: Storage) -> None:
        if not tx.sessions.delete(user_id):
            raise NotFound(f"there is no session of the user {user_id!r}")
        audit.record(tx, "sessions.delete", person, user_id=user_id)

    atomically(storage, work)
