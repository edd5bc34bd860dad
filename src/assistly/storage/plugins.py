"""Engines of third parties, found by their entry points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

ENGINES = "assistly.storage_engines"
"""The group of entry points for engines. The name is a value of STORAGE_ENGINE; the object is called with the
StorageSettings and returns a StorageBackend."""

SETTINGS = "assistly.storage_settings"
"""The group of entry points for the settings of engines. The name is the engine's; the object is a subclass
of StorageSettings with the engine's own settings. An engine without settings of its own needs no entry."""

BUILT_IN = ("memory", "sqlite", "postgres")


def entry_points(*, group: str) -> EntryPoints:
    """Return the entry points of a group."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def engine_names() -> list[str]:
    """Return the names of all installed engines, the built-in ones first."""
    return [*BUILT_IN, *sorted(entry_points(group=ENGINES).names - {*BUILT_IN})]


def load_plug_in(group: str, name: str) -> Any:
    """Return the object of the entry point `name` in `group`; None if there is none, or `name` is built in.

    Raises ConfigurationError if it cannot be imported.
    """
    if name in BUILT_IN:
        return None
    found = entry_points(group=group)
    if name not in found.names:
        return None
    entry = found[name]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"STORAGE_ENGINE: the plug-in {name!r} ({entry.value}) cannot be loaded: {error}"
        ) from error
