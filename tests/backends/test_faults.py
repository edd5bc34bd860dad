"""The public wrapper that injects faults into an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest

from assistly.storage import (
    InvalidValue,
    MemoryBackend,
    OutcomeUnknown,
    SqliteBackend,
    Storage,
    StorageBackend,
    StorageError,
    StorageUnavailable,
    TransactionAborted,
)
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.testing import LifecycleContract, StorageContract
from assistly.storage.testing.batches_contract import BatchesContract
from assistly.storage.testing.engine_contract import WakeUpContract
from assistly.storage.testing.faults import (
    CALLS,
    Fault,
    FaultyBackend,
    When,
    delay,
    die,
    fail_with,
    lose_reply,
)
from assistly.storage.testing.fixtures import END_OF_TIME, START
from assistly.storage.testing.forking import ForkedChild, needs_fork
from assistly.storage.testing.transaction_calls_contract import TransactionCallsContract
from assistly.storage.testing.transactions_contract import TransactionErrorsContract, TransactionsContract


@pytest.fixture(scope="module")
def backend() -> Iterator[StorageBackend]:
    with closing(FaultyBackend(MemoryBackend())) as backend:
        yield backend


@pytest.fixture
def impatient_backend(monkeypatch: pytest.MonkeyPatch) -> FaultyBackend:
    monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.2)
    return FaultyBackend(MemoryBackend())


class TestWithoutFaults(
    TransactionsContract, TransactionErrorsContract, TransactionCallsContract, BatchesContract, WakeUpContract
):
    """The parts of the suite in which an engine is more than its single calls."""


@pytest.mark.soak
class TestAllWithoutFaults(StorageContract):
    pass


class TestWithoutFaultsLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        numbers = count()
        return lambda: FaultyBackend(SqliteBackend(tmp_path / f"{next(numbers)}.db"))


@pytest.fixture(params=["memory", "sqlite"])
def faulty(request: pytest.FixtureRequest, path: Path) -> Iterator[FaultyBackend]:
    engine: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(path)
    with closing(FaultyBackend(engine)) as faulty:
        faulty.ping()
        faulty.inject()
        yield faulty


@pytest.fixture
def storage(faulty: FaultyBackend) -> Storage:
    return Storage(faulty, clock=lambda: START, auto_prune=False)


def both(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.sessions.put("user", 1)
        with tx.transaction() as inner:
            inner.nonces.register("nonce")


def test_calls_are_counted_inside_transactions_too(faulty: FaultyBackend, storage: Storage) -> None:
    both(storage)
    storage.queue.get(1)
    assert faulty.calls == [
        *("transaction", "sessions.put", "transaction", "nonces.register", "commit", "jobs.get")
    ]
    assert faulty.injected == []
    faulty.inject()
    assert faulty.calls == []


def test_the_nth_call_fails_once(faulty: FaultyBackend, storage: Storage) -> None:
    faulty.inject(Fault(fail_with(), at=2))
    storage.sessions.put("user", 1)
    with pytest.raises(StorageUnavailable, match=r"before call 2 \(sessions\.put\)"):
        storage.sessions.put("user", 2)
    storage.sessions.put("user", 3)
    assert [session.version for session in storage.sessions.list()] == [2]
    assert faulty.injected == ["sessions.put"]


def test_a_lasting_fault(faulty: FaultyBackend, storage: Storage) -> None:
    faulty.inject(Fault(fail_with(), at=2, lasting=True))
    storage.sessions.put("user", 1)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            storage.sessions.put("user", 2)
    assert faulty.injected == ["sessions.put"] * 2
    faulty.inject()
    storage.sessions.put("user", 2)


def test_the_calls_of_one_method(faulty: FaultyBackend, storage: Storage) -> None:
    faulty.inject(Fault(fail_with(), at=2, method="nonces.register"))
    storage.nonces.register("a")
    storage.sessions.put("user", 1)
    with pytest.raises(StorageUnavailable, match="call 2"):
        storage.nonces.register("b")


def test_several_faults(faulty: FaultyBackend, storage: Storage) -> None:
    slept: list[float] = []
    faulty.inject(Fault(delay(2.5, slept.append), lasting=True), Fault(fail_with(TransactionAborted), at=2))
    storage.sessions.put("user", 1)
    with pytest.raises(TransactionAborted):
        storage.sessions.put("user", 2)
    assert slept == [2.5, 2.5]


@pytest.mark.parametrize(("when", "stored"), [("before", False), ("after", True)])
def test_a_lost_reply(faulty: FaultyBackend, storage: Storage, when: When, stored: bool) -> None:
    faulty.inject(Fault(lose_reply(), when=when))
    with pytest.raises(OutcomeUnknown):
        storage.nonces.register("nonce")
    assert storage.nonces.seen("nonce") is stored


def test_the_lost_reply_to_a_read(faulty: FaultyBackend, storage: Storage) -> None:
    """Nothing can have been written, so the outcome is known."""
    faulty.inject(Fault(lose_reply(), when="after"))
    with pytest.raises(StorageUnavailable):
        storage.sessions.get("user")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("breaks", [False, True], ids=["fails", "loses the connection"])
def test_each_call_of_a_transaction(
    faulty: FaultyBackend, storage: Storage, breaks: bool, when: When
) -> None:
    for at in count(1):
        faulty.inject(Fault(lose_reply() if breaks else fail_with(), at, when))
        error: StorageError | None = None
        try:
            both(storage)
        except StorageError as raised:
            error = raised
        hit = faulty.injected
        faulty.inject()
        written = (storage.sessions.get("user") is not None, storage.nonces.seen("nonce"))
        if error is None:
            assert (at, hit, written) == (6, [], (True, True))
            return
        is_commit = hit == ["commit"]
        assert isinstance(error, OutcomeUnknown) is (is_commit and breaks)
        assert written == ((True, True) if is_commit and when == "after" else (False, False))
        storage.sessions.delete("user")
        faulty.retention.delete_older("nonces", END_OF_TIME, limit=9)


def test_a_fault_that_the_block_catches_ends_the_transaction(faulty: FaultyBackend, storage: Storage) -> None:
    faulty.inject(Fault(lose_reply(), method="sessions.put", when="after"))

    def catch() -> None:
        with storage.transaction() as tx:
            with suppress(StorageUnavailable):
                tx.sessions.put("user", 1)
            with pytest.raises(StorageUnavailable, match="has ended"):
                tx.nonces.register("nonce")

    with pytest.raises(StorageUnavailable, match="has ended"):
        catch()
    assert storage.sessions.get("user") is None
    storage.sessions.put("user", 1)


def test_a_bound_connection(path: Path) -> None:
    with closing(FaultyBackend(SqliteBackend(path))) as faulty, closing(sqlite3.connect(path)) as connection:
        storage = Storage(faulty, clock=lambda: START, auto_prune=False)
        storage.ping()
        faulty.inject(Fault(fail_with(), at=2))
        with pytest.raises(StorageUnavailable):
            storage.bind(connection).nonces.register("nonce")
        assert faulty.calls == ["bind", "nonces.register"]


@needs_fork
def test_dying(path: Path) -> None:
    """In the middle of a transaction, of which nothing is kept."""
    with closing(SqliteBackend(path)) as engine:
        engine.ping()

    def work(_: object) -> None:
        with closing(FaultyBackend(SqliteBackend(path))) as faulty:
            storage = Storage(faulty, auto_prune=False)
            storage.sessions.put("before", 1)
            faulty.inject(Fault(die(), method="commit"))
            both(storage)

    child = ForkedChild(work)
    _, status = os.waitpid(child.pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 137
    with closing(SqliteBackend(path)) as engine:
        assert [session.user_id for session in engine.sessions.list(after=None, limit=9)] == ["before"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Fault(die(), 0),
        lambda: Fault(die(), True),
        lambda: Fault(die(), method="jobs.sett1e"),
        lambda: Fault(die(), when="later"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments(wrong: Callable[[], Fault]) -> None:
    with pytest.raises(InvalidValue):
        wrong()


def test_the_names_of_the_calls() -> None:
    assert {"jobs.settle", "retention.delete_older", "commit"} < {*CALLS}
    engine = MemoryBackend()
    for name in CALLS:
        store, _, method = name.rpartition(".")
        assert callable(getattr(getattr(engine, store) if store else engine, method, len)), name
