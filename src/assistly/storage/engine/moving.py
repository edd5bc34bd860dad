"""The optional part of the engine protocol: with it, all data can be exported, imported and copied."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast

from ..errors import ConfigurationError
from .protocol import StorageBackend
from .transfer import Row

MEMBERS = ("snapshot", "read_rows", "write_rows")


class MovingBackend(StorageBackend, Protocol):
    """An engine whose data can move. `KeyValueBackend` has this; `BackendBase` refuses it by default."""

    def snapshot(self, *, hold_writers: bool = False) -> AbstractContextManager[MovingBackend]:
        """Yield a backend whose reads all see the data of one moment, until the end of the block.

        With `hold_writers` it is a transaction, and nobody else writes until its end; if others write for
        longer than 10 seconds before, it raises StorageUnavailable. Without, it is only read, and others go
        on writing where the engine can give a view of the past.
        """

    def read_rows(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        """The first `limit` rows of a kind of `engine.transfer.ROW_KINDS` with key > after, by key.

        The rows of `marks` are all of NUMBERED and LAST_PRUNE.
        """

    def write_rows(self, kind: str, rows: Sequence[Row], *, after: Row | None, through: Row | None) -> None:
        """Replace the rows with after < key <= through (None: without this end) with these, which are in it.

        A row outside with the same `unique` value as one of these is deleted. Of `marks`, a number is only
        ever raised, and the time of the last prune is set; nothing is deleted.
        """


def moving(backend: StorageBackend) -> MovingBackend:
    """Return the engine. Raises ConfigurationError if it lacks one of the optional members."""
    missing = [name for name in MEMBERS if not hasattr(backend, name)]
    if missing:
        raise cannot_move(backend, missing[0])
    return cast("MovingBackend", backend)


def cannot_move(backend: object, member: str) -> ConfigurationError:
    """The error for an engine without this member."""
    return ConfigurationError(
        f"the engine {type(backend).__name__} cannot export, import or copy: it lacks the optional member "
        f"`{member}`"
    )
