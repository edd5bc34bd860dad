"""The events that operations of people leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import Storage
    from assistly.storage.records import Json

PREFIX = "operator."
"""The event types of operations of people begin with this."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who does it, and why: for the event. `by` is None for the name of the login."""

    by: str | None
    note: str | None

    @property
    def name(self) -> str:
        """Who it is: `by`, or else the name of the login."""
        return login() if self.by is None else self.by


def record(storage: Storage, action: str, person: Person, **details: Json) -> None:
    """Append the event `operator.{action}`. Call it on the transaction that does the work.

    The payload has the keys `by`, `note` if there is one, and the details.
    """
    payload: dict[str, Json] = {"by": person.name, **details}
    if person.note is not None:
        payload["note"] = person.note
    storage.events.append(f"{PREFIX}{action}", payload)


def login() -> str:
    """The name of the login, or "unknown"."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
