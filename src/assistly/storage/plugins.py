"""Engines of third parties, found by their entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from .errors import ConfigurationError

ENGINES = "assistly.storage_engines"
"""The group of entry points that are engines: the name is what STORAGE_ENGINE takes, the object is called
with the StorageSettings and returns a StorageBackend."""

SETTINGS = "assistly.storage_settings"
"""The group of entry points that are settings of engines: the name is the engine's, the object is a subclass
of StorageSettings with the engine's own settings. An engine without settings of its own has none."""

BUILT_IN = ("memory", "sqlite", "postgres")


def engine_names() -> list[str]:
    """The engines that can be opened here: the built-in ones first."""
    return [*BUILT_IN, *sorted(entry_points(group=ENGINES).names - {*BUILT_IN})]


def load_plug_in(group: str, name: str) -> Any:
    """The object of the entry point `name` in `group`; None if there is none, or if `name` is built in.

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
