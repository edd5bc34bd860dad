"""Tells whether a copy into a storage has begun and is not finished: then nobody may work on it."""

from __future__ import annotations

from .addresses import place_of
from .engine.protocol import StorageBackend
from .errors import ConfigurationError
from .storage import Storage

COPY_COLLECTION = "transfer"
"""The collection of the document that a copy keeps in its target until it is finished."""

COPY_KEY = "copy"
"""The key of that document."""


def unfinished_copy(backend: StorageBackend) -> str | None:
    """The source of a copy into this storage that is not finished, such as `sqlite /path`; None if there is
    none."""
    found = backend.documents.get(COPY_COLLECTION, COPY_KEY)
    if found is None:
        return None
    source = found.data.get("source") if isinstance(found.data, dict) else None
    return source if isinstance(source, str) else "another storage"


def require_finished(storage: Storage) -> None:
    """Raise ConfigurationError if a copy into this storage is not finished. It reads one document."""
    backend = storage._context.backend  # noqa: SLF001 - nobody else has to know
    source = unfinished_copy(backend)
    if source is not None:
        raise ConfigurationError(
            f"{place_of(backend)} is not ready: a copy of {source} into it is not finished. Finish it with "
            "the same `assistly copy` command, without --prepare, or use the source"
        )
