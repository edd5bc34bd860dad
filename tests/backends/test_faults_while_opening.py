"""A fault at each statement of the first use, which prepares the schema; and in batches of calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    OutcomeUnknown,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageBackend,
    StorageError,
    StorageUnavailable,
)
from assistly.storage.batching import BatchedCall
from assistly.storage.stores.scheduling import JobRequest
from assistly.storage.validation import JsonText
from backends import fault_postgres, fault_sqlite
from backends.fault_operations import KEYS
from backends.fault_plan import DriverFault, FaultyEngine, Plan
from backends.fault_postgres import CUTS, FaultyPostgresEngine, server_errors, terminated_by
from backends.fault_sqlite import SQLITE_FAULTS, FaultySqliteEngine


def check_opening(
    plan: Plan, fault: DriverFault, open_one: Callable[[], StorageBackend], *, most: int
) -> None:
    """With a fault at some statements, the last one included; there are more of them with more `most`."""
    statements = _statements(plan, open_one)
    assert statements > 20
    for at in [*range(1, statements, max(1, statements // most)), statements]:
        with closing(open_one()) as backend:
            plan.arm(fault, at)
            try:
                backend.ping()
            except StorageUnavailable:
                pass
            finally:
                reached = plan.disarm()
            assert reached
            assert backend.nonces.register("a", 1), f"{fault}, statement {at}"
            assert backend.migrate() == []


def _statements(plan: Plan, open_one: Callable[[], StorageBackend]) -> int:
    with closing(open_one()) as backend:
        plan.arm(DriverFault("none", lambda _: None), 10**9)
        backend.ping()
        plan.disarm()
        return plan.seen


THOROUGH = pytest.mark.parametrize("most", [3, pytest.param(10_000, marks=pytest.mark.soak)])


@THOROUGH
def test_opening_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    plan = Plan()
    fault_sqlite.follow(plan, monkeypatch)
    numbers = count()
    for fault in SQLITE_FAULTS[:-1]:
        check_opening(plan, fault, lambda: SqliteBackend(tmp_path / f"{next(numbers)}.db"), most=most)


@THOROUGH
def test_opening_postgres(
    database_url: str, new_schema: Callable[[], str], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    plan = Plan()

    def open_one() -> PostgresBackend:
        return PostgresBackend(database_url, 1, schema=new_schema(), fast_path=True)

    with psycopg.connect(database_url, autocommit=True) as admin:
        fault_postgres.follow(plan, monkeypatch)
        for fault in (*CUTS[: 4 if most > 3 else 1], terminated_by(admin)):
            check_opening(plan, fault, open_one, most=most)


BATCHES: dict[str, tuple[Callable[[Storage], BatchedCall[Any, Any, Any]], Callable[[str], Any]]] = {
    "schedule": (
        lambda storage: storage.queue._scheduler.batched,
        lambda key: JobRequest("x", key, JsonText("{}"), None, key, 3, None, None),
    ),
    "nonces.register": (lambda storage: storage.nonces._batched, lambda key: (key, None)),
    "idempotency.put": (lambda storage: storage.idempotency._putting, lambda key: (key, JsonText("1"), None)),
}


def check_batches(faulty: FaultyEngine, name: str, fault: DriverFault) -> None:
    """Each call of a batch is told whether it was stored."""
    find, request = BATCHES[name]
    batched = find(faulty.storage)
    requests = {key: request(key) for key in KEYS}
    for at in count(1):
        faulty.empty()
        told: dict[str, StorageError | None] = {}
        faulty.plan.arm(fault, at)
        answers = batched.run_batch([*requests.values()])
        for (key, one), answer in zip(requests.items(), answers, strict=True):
            try:
                batched.result(one, answer)
            except (StorageUnavailable, OutcomeUnknown) as raised:
                told[key] = raised
            else:
                told[key] = None
        reached = faulty.plan.disarm()
        faulty.check_idle()
        for key, error in told.items():
            if not isinstance(error, OutcomeUnknown):
                assert _is_stored(faulty.observer, name, key) is (error is None), f"{key}: {fault} at {at}"
        if not reached:
            assert {*told.values()} == {None}
            return


def _is_stored(storage: Storage, name: str, key: str) -> bool:
    if name == "schedule":
        return any(job.content == key for job in storage.queue.list())
    return storage.nonces.seen(key) if name == "nonces.register" else storage.idempotency.get(key) is not None


@pytest.mark.parametrize("name", BATCHES)
def test_batches_on_sqlite(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with closing(FaultySqliteEngine(path, monkeypatch)) as faulty:
        for fault in SQLITE_FAULTS:
            check_batches(faulty, name, fault)


@pytest.mark.parametrize("name", BATCHES)
def test_batches_on_postgres(
    database_url: str, schema: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with closing(FaultyPostgresEngine(database_url, schema, monkeypatch, fast_path=True)) as faulty:
        for fault in (*CUTS, *server_errors(faulty.plan)[:3]):
            check_batches(faulty, name, fault)
