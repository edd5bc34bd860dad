"""The events that record what people do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import Storage
    from assistly.storage.records import Json

PREFIX = "operator."
"""The prefix of the types of these events."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who makes a change, and why, for the event. If `by` is None, the login name is recorded."""

    by: str | None
    note: str | None

    @property
    def name(self) -> str:
        """`by`, or the login name."""
        return login() if self.by is None else self.by


def record(storage: Storage, action: str, person: Person, **details: Json) -> None:
    """Append the event `operator.{action}`. Call it on the transaction that makes the change.

    The payload has the keys `by`, `note` if there is one, and the details.
    """
    payload: dict[str, Json] = {"by": person.name, **details}
    if person.note is not None:
        payload["note"] = person.note
    storage.events.append(f"{PREFIX}{action}", payload)


def login() -> str:
    """The login name, or "unknown"."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
