"""A database of the demo's own, on the engine of the environment."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from assistly.storage import Conflict, Storage
from assistly.storage.clock import Clock, system_clock
from assistly.storage.factory import open_storage
from assistly.storage.settings import SettingsKeywords, StorageSettings, load_settings

SCHEMA = "assistly_demo"
_MARK = "assistly_demo"
_BEGINNING = datetime(1970, 1, 2, tzinfo=UTC)
_END = datetime(9000, 1, 1, tzinfo=UTC)
_TAKEN_FOR = timedelta(minutes=2)

_SETTINGS: SettingsKeywords = {
    "retention_approvals_days": 30,
    "retention_max_approvals": 5000,
    "retention_idempotency_days": 14,
    "retention_max_idempotency": 10_000,
    "retention_nonces_days": 1,
    "retention_posted_days": 36_500,
    "retention_events_days": 36_500,
    "retention_sessions_days": 36_500,
    "schedule_max_retries": 3,
    "schedule_retry_minutes": 5,
    "schedule_worker_lock_seconds": 45,
}
"""Pinned, so that every run is the same. The century lets `_clear` prune what a run never does."""


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    afterwards: str


@contextmanager
def demo_storage(clock: Clock, *, keep: bool) -> Iterator[tuple[Storage, Place]]:
    """An empty storage, and where it is.

    SQLITE_PATH and STORAGE_SCHEMA are used where they are set, unless there is data in it that is
    not an earlier demo's; that is an error.
    """
    settings = load_settings()
    folder = _temporary_folder(settings)
    try:
        keywords, place = _place(settings, folder, keep=keep)
        with open_storage(clock=clock, auto_prune=False, **keywords) as storage, _alone(storage, place):
            yield storage, place
    finally:
        if folder is not None and not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder(settings: StorageSettings) -> Path | None:
    if settings.engine != "sqlite" or "sqlite_path" in settings.model_fields_set:
        return None
    return Path(tempfile.mkdtemp(prefix="assistly-demo-"))


def _place(settings: StorageSettings, folder: Path | None, *, keep: bool) -> tuple[SettingsKeywords, Place]:
    if folder is not None:
        path = folder / "demo.db"
        kept = f"kept: SQLITE_PATH={path} assistly status"
        return {**_SETTINGS, "sqlite_path": path}, Place(
            "SQLite, a temporary file", kept if keep else "deleted by now (--keep keeps it)"
        )
    if settings.engine == "sqlite":
        return _SETTINGS, Place(f"SQLite, {settings.sqlite_path}", "the next demo empties it")
    if settings.engine == "postgres":
        schema = settings.schema_name if "schema_name" in settings.model_fields_set else SCHEMA
        kept = f"the next demo empties it; until then: STORAGE_SCHEMA={schema} assistly status"
        return {**_SETTINGS, "schema": schema}, Place(f"Postgres, schema {schema}", kept)
    return _SETTINGS, Place(settings.engine, "")


@contextmanager
def _alone(storage: Storage, place: Place) -> Iterator[None]:
    lock = storage.lock.acquire(uuid.uuid4().hex, ttl=_TAKEN_FOR, name="demo", now=system_clock())
    if lock is None:
        raise Conflict(f"another demo is running in the same database ({place.name}): wait for it to end")
    try:
        _clear(storage, place)
        yield
    finally:
        storage.lock.release(lock, now=system_clock())


def _clear(storage: Storage, place: Place) -> None:
    if storage.snapshots.get(_MARK) is None and not _is_empty(storage):
        raise Conflict(
            f"the demo needs a database of its own, and there is data in this one ({place.name}): "
            "unset SQLITE_PATH or STORAGE_SCHEMA, or name another"
        )
    storage.snapshots.put(_MARK, {"note": "assistly demo may delete everything here"})
    storage.prune(force=True, now=_END)
    while jobs := storage.queue.list(limit=1000):
        with storage.transaction() as tx:
            for job in jobs:
                tx.queue.remove(job.id)
    for name, value in storage.metrics.read().counters.items():
        storage.metrics.increment(name, -value)
    held = storage.lock.current(now=_BEGINNING)
    if held is not None:
        storage.lock.release(held, now=_BEGINNING)


def _is_empty(storage: Storage) -> bool:
    return not (
        any(storage.queue.counts().values())
        or storage.sessions.list(limit=1)
        or storage.approvals.list(limit=1)
        or storage.events.list(limit=1)
        or storage.snapshots.list()
        or storage.metrics.read().counters
    )
