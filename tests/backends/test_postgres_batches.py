"""Batches that need more than one statement on Postgres."""

from __future__ import annotations

import psycopg
import pytest

from assistly.storage.engines.postgres import batches
from assistly.storage.errors import StorageError
from assistly.storage.storage import Storage

NAMES = [f"n{number}" for number in range(8)]


@pytest.fixture(autouse=True)
def short_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_ROWS", 3)


def test_each_gets_its_answer(postgres: Storage) -> None:
    assert postgres.nonces.register_many(NAMES[::2]) == [True] * 4
    assert postgres.nonces.register_many(reversed(NAMES)) == [True, False] * 4
    put = postgres.idempotency.put_many([(name, name) for name in NAMES])
    assert [postgres.idempotency.get(name) for name in NAMES] == put


@pytest.mark.parametrize(("table", "column"), [("nonces", "nonce"), ("idempotency", "key")])
def test_all_or_nothing(postgres: Storage, database_url: str, schema: str, table: str, column: str) -> None:
    postgres.ping()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {schema}.assistly_{table} ADD CHECK ({column} <> 'n7')")
    with pytest.raises(StorageError):
        if table == "nonces":
            postgres.nonces.register_many(NAMES)
        else:
            postgres.idempotency.put_many([(name, 1) for name in NAMES])
    assert not any(postgres.nonces.seen(name) or postgres.idempotency.get(name) for name in NAMES)
