"""The events that operations of people leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import Storage
    from assistly.storage.records import Json

PREFIX = "operator."
"""The event types of operations of people begin with this."""


def record(storage: Storage, action: str, *, by: str | None, note: str | None, **details: Json) -> None:
    """Append the event `operator.{action}`. Call it on the transaction that does the work.

    `by` is None for the name of the login. The payload has the keys `by`, `note` if there is one, and the
    details.
    """
    payload: dict[str, Json] = {"by": by if by is not None else login(), **details}
    if note is not None:
        payload["note"] = note
    storage.events.append(f"{PREFIX}{action}", payload)


def login() -> str:
    """The name of the login, or "unknown"."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
