"""A call that fails costs no connection: to open one takes longer than most calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from assistly.storage import Storage, StorageUnavailable
from assistly.storage.engines.postgres import database
from assistly.storage.testing.fixtures import on_a_thread

PATIENCE = 30.0


class Failure(Exception):
    """Raised on purpose."""


def process(executor: Any) -> int:
    pid: int = executor.row("SELECT pg_backend_pid()")[0]
    return pid


def fail(executor: Any) -> None:
    raise Failure


def fail_at_the_server(executor: Any) -> None:
    executor.row("SELECT 1/0")


def in_a_block(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("nonce")
        raise Failure


def in_an_inner_block(storage: Storage) -> None:
    with storage.transaction() as tx, tx.transaction() as inner:
        inner.nonces.register("nonce")
        raise Failure


def at_the_server_in_a_block(storage: Storage) -> None:
    with storage.transaction() as tx:
        engine_of(tx).read(fail_at_the_server)


def engine_of(storage: Storage) -> Any:
    backend: Any = storage._context.idle_backend
    return backend._database


def call(run: str, work: Callable[[Any], object], storage: Storage) -> None:
    getattr(engine_of(storage), run)(work)


FAILURES: dict[str, Callable[[Storage], object]] = {
    "block": in_a_block,
    "inner block": in_an_inner_block,
    "statement of a block": at_the_server_in_a_block,
    **{
        f"{run}, {work.__name__}": partial(call, run, work)
        for run in ("read", "autocommit", "in_transaction", "rolled_back")
        for work in (fail, fail_at_the_server)
    },
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_connection_is_lent_again(postgres: Storage, failure: str) -> None:
    postgres.ping()
    before = engine_of(postgres).read(process)
    with pytest.raises(Exception, match=r"|division by zero"):
        FAILURES[failure](postgres)
    assert engine_of(postgres).read(process) == before
    assert postgres.nonces.register("nonce")


def test_a_transaction_that_does_not_begin_takes_no_place(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_postgres(pool_size=2)
    storage.ping()

    def refuse(_: object) -> None:
        raise psycopg.errors.InsufficientResources("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(database, "begin", refuse)
        for _ in range(5):
            with pytest.raises(StorageUnavailable, match="on purpose"), storage.transaction():
                pass
    with storage.transaction() as tx:
        pids = {engine_of(tx).read(process)}
        other = on_a_thread(lambda: engine_of(storage).read(process))
        pids.add(other.result(PATIENCE))
    assert len(pids) == 2
