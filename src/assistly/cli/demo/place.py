"""A separate database for the demo, on the engine of the environment."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from assistly.storage import ConfigurationError, Conflict, Storage, StorageSettings, open_storage
from assistly.storage.clock import Clock, system_clock
from assistly.storage.plugins import BUILT_IN, engine_names
from assistly.storage.settings import load_settings

_SCHEMA = _MARKER = "assistly_demo"
_EARLY = datetime(1970, 1, 2, tzinfo=UTC)
_LATE = datetime(9000, 1, 1, tzinfo=UTC)
# The defaults, so that all runs are equal. The longer retention lets `_clear` prune everything else.
_SETTINGS: dict[str, Any] = {
    name: 36_500 if field.default is None else field.default
    for name, field in StorageSettings.model_fields.items()
    if name.startswith(("retention_", "schedule_"))
}


@contextmanager
def demo_storage(clock: Clock, *, keep: bool) -> Iterator[tuple[Storage, str, str]]:
    """Yield an empty storage, its location, and what happens to it afterwards.

    Raises Conflict if the database has other data, or another demo is running in it.
    """
    with ExitStack() as stack:
        settings, place, afterwards = _place(stack, keep=keep)
        storage = stack.enter_context(open_storage(clock=clock, auto_prune=False, **_SETTINGS | settings))
        ttl = timedelta(minutes=2)
        lock = storage.lock.acquire(uuid.uuid4().hex, ttl=ttl, name="demo", now=system_clock())
        if lock is None:
            raise Conflict(f"another demo is running in the same database ({place}): wait for it to end")
        stack.callback(storage.lock.release, lock, now=system_clock())
        _clear(storage, place)
        yield storage, place, afterwards


def _place(stack: ExitStack, *, keep: bool) -> tuple[dict[str, Any], str, str]:
    """The keywords for `open_storage`, the location, and what happens to it afterwards."""
    settings = load_settings()
    engine, again = settings.engine, "the next demo empties it"
    if engine == "sqlite" and "sqlite_path" not in settings.model_fields_set:
        folder = Path(tempfile.mkdtemp(prefix="assistly-demo-"))
        path = folder / "demo.db"
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        kept = f"kept: SQLITE_PATH={path} assistly status"
        afterwards = kept if keep else "deleted (use --keep to keep it)"
        return {"sqlite_path": path}, "SQLite, a temporary file", afterwards
    if engine == "sqlite":
        return {}, f"SQLite, {settings.sqlite_path}", again
    if engine == "postgres":
        schema = settings.schema_name if "schema_name" in settings.model_fields_set else _SCHEMA
        afterwards = f"{again}; until then: STORAGE_SCHEMA={schema} assistly status"
        return {"schema": schema}, f"Postgres, schema {schema}", afterwards
    if engine in engine_names() and engine not in BUILT_IN:
        raise ConfigurationError(
            f"the demo runs on {', '.join(BUILT_IN)}: with the plug-in {engine!r} it cannot create a "
            "database of its own, and would write to yours"
        )
    return {}, engine, ""


def _clear(storage: Storage, place: str) -> None:
    """Delete the data of an earlier demo."""
    stores: list[Any] = [storage.queue, storage.sessions, storage.approvals, storage.events]
    has_records = storage.snapshots.list() or any(store.list(limit=1) for store in stores)
    if storage.snapshots.get(_MARKER) is None and (has_records or storage.metrics.read().counters):
        raise Conflict(
            f"the demo needs a database of its own, and this one has data ({place}): "
            "unset SQLITE_PATH or STORAGE_SCHEMA, or name another database"
        )
    storage.snapshots.put(_MARKER, {"note": "assistly demo may delete everything here"})
    storage.prune(force=True, now=_LATE)
    while jobs := storage.queue.list(limit=1000):
        with storage.transaction() as tx:
            for job in jobs:
                tx.queue.remove(job.id)
    for name, value in storage.metrics.read().counters.items():
        storage.metrics.increment(name, -value)
    if lock := storage.lock.current(now=_EARLY):
        storage.lock.release(lock, now=_EARLY)
