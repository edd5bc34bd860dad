"""Shared by the modules of this package: the error about a missing framework, and checks of values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from assistly.storage import validation as check
from assistly.storage.aio import AsyncStorage
from assistly.storage.records import Json


@contextmanager
def framework(needs: str, extra: str) -> Iterator[None]:
    """Raise ImportError that names the extra if an import in the block fails. `needs`: the framework."""
    try:
        yield
    except ImportError as error:
        cure = f"python -m pip install 'assistly[{extra}]'"
        raise ImportError(
            f"assistly.integrations.{extra} needs {needs} ({error}): {cure}", name=error.name
        ) from None


def json_object(what: str, value: object) -> dict[str, Json]:
    """Return the dict. Raises InvalidValue, which names the key, if a value is not JSON."""
    if type(value) is not dict:
        raise check.wrong_type(what, "a dict", value)
    for key, item in value.items():
        check.canonical(f"{what}[{key!r}]", item)
    check.canonical(what, value)
    return value


def async_storage(storage: object) -> AsyncStorage:
    """Return the storage. Raises InvalidValue if it is not an AsyncStorage."""
    if not isinstance(storage, AsyncStorage):
        raise check.wrong_type("storage", "an AsyncStorage, as returned by open_async_storage", storage)
    return storage
