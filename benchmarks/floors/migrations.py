"""The tables of the migrations, made without the engine."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal


def schema_script(engine: Literal["postgres", "sqlite"]) -> str:
    """All migrations of an engine, in order."""
    folder = files("assistly.storage.migrations")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(f"_{engine}.sql"))
    return "\n".join(folder.joinpath(name).read_text() for name in names)
