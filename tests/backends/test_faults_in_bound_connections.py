"""Faults on a connection of the caller's: the errors are of this package, and the caller can roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage import Storage, StorageUnavailable
from assistly.storage.engines.sqlite.driver import sqlite3
from backends.fault_operations import content
from backends.fault_plan import DriverFault, FaultyEngine
from backends.fault_postgres import CUTS, FaultyPostgresEngine, server_errors
from backends.fault_sqlite import SQLITE_FAULTS, FaultySqliteEngine, connection_class

_DRIVER_ERRORS = (psycopg.Error, sqlite3.Error)


def _work(bound: Storage) -> None:
    bound.queue.schedule("x", "a", idempotency_key="a")
    bound.sessions.update("a", lambda _: 1)
    with bound.transaction() as nested:
        nested.nonces.register("a")


def check(faulty: FaultyEngine, connect: Callable[[], Any], faults: Sequence[DriverFault]) -> None:
    """All of the caller's transaction is stored if nothing failed, and nothing else."""
    faulty.empty()
    before = content(faulty.observer)
    for fault in faults:
        for at in count(1):
            faulty.empty()
            error: Exception | None = None
            with closing(connect()) as connection:
                bound = faulty.storage.bind(connection)
                faulty.plan.arm(fault, at)
                try:
                    _work(bound)
                except Exception as raised:  # noqa: BLE001 - it is judged below
                    error = raised
                reached = faulty.plan.disarm()
                if error is None:
                    connection.commit()
                else:
                    with suppress(*_DRIVER_ERRORS):
                        connection.rollback()
            faulty.check_idle()
            note = f"{fault}, statement {at}: {error!r}"
            assert error is None or isinstance(error, StorageUnavailable), note
            assert (content(faulty.observer) == before) is (error is not None), note
            assert faulty.storage.nonces.register("the next call"), note
            if not reached:
                assert at > 3
                break


def test_sqlite(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(FaultySqliteEngine(path, monkeypatch)) as faulty:
        check(faulty, lambda: sqlite3.connect(path, factory=connection_class(faulty.plan)), SQLITE_FAULTS[:5])


def test_postgres(database_url: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(FaultyPostgresEngine(database_url, schema, monkeypatch, fast_path=True)) as faulty:
        faults = [*CUTS, *server_errors(faulty.plan)[2:4]]
        check(faulty, lambda: psycopg.connect(database_url), faults)
