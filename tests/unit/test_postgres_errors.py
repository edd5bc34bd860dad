"""What each code of the server means to a caller."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from assistly.storage.engines.postgres.errors import (
    connect_problem,
    is_conflict,
    nothing_committed,
    translate,
)
from assistly.storage.errors import (
    ConfigurationError,
    InvalidValue,
    MigrationError,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    TransactionAborted,
)


def error_of(state: str, text: str = "the server's words") -> psycopg.Error:
    kind = errors.lookup(state)
    assert kind.sqlstate == state
    return kind(text)


@pytest.mark.parametrize(
    ("state", "kind", "word"),
    [
        ("0A000", ConfigurationError, "PostgreSQL from version 15"),
        ("22003", InvalidValue, "number"),
        ("22008", InvalidValue, "time"),
        ("22P02", StorageCorrupt, "form"),
        ("23514", StorageCorrupt, "constraint"),
        ("25006", StorageUnavailable, "no writes"),
        ("26000", ConfigurationError, "prepare_threshold=None"),
        ("2BP01", MigrationError, "depends"),
        ("3D000", ConfigurationError, "database"),
        ("25P02", StorageUnavailable, "roll back: an earlier call of the transaction failed"),
        ("40001", TransactionAborted, "other transactions"),
        ("42501", ConfigurationError, "privilege"),
        ("42601", ConfigurationError, "PostgreSQL from version 15"),
        ("42701", MigrationError, "STORAGE_SCHEMA"),
        ("42704", MigrationError, "missing"),
        ("42710", MigrationError, "STORAGE_SCHEMA"),
        ("42P01", MigrationError, "assistly migrate"),
        ("42P05", ConfigurationError, "prepare_threshold=None"),
        ("42P07", MigrationError, "STORAGE_SCHEMA"),
        ("42P10", MigrationError, "unique index"),
        ("53100", StorageUnavailable, "disk"),
        ("54000", InvalidValue, "larger"),
        ("55P03", StorageUnavailable, "lock"),
        ("57P04", ConfigurationError, "dropped"),
        ("P0001", StorageError, "trigger"),
        ("XX000", StorageUnavailable, "error of its own"),
        ("XX001", StorageCorrupt, "corrupt"),
    ],
)
def test_a_code(state: str, kind: type[StorageError], word: str) -> None:
    problem = translate(error_of(state))
    assert type(problem) is kind
    assert word in str(problem)
    assert "the server's words" in str(problem)


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        (
            'bind message supplies 3 parameters, but prepared statement "a" requires 2',
            ConfigurationError,
            "pooler",
        ),
        ("prepared statement name is already in use", ConfigurationError, "pooler"),
        ("no such database: shop", ConfigurationError, "DATABASE_URL"),
        ("query_wait_timeout", StorageUnavailable, "pooler"),
        ("server conn crashed?", StorageUnavailable, "pooler"),
    ],
)
def test_the_code_that_poolers_give_to_everything(text: str, kind: type[StorageError], word: str) -> None:
    problem = translate(error_of("08P01", text))
    assert type(problem) is kind
    assert word in str(problem)
    assert text in str(problem)


def test_a_plan_whose_tables_have_changed_is_no_lack_of_the_server() -> None:
    problem = translate(error_of("0A000", "cached plan must not change result type"))
    assert type(problem) is StorageUnavailable


def test_what_is_worth_a_retry() -> None:
    assert {
        state
        for state in ("40001", "40P01", "26000", "42P05", "23505", "57014")
        if is_conflict(error_of(state))
    } == {
        "40001",
        "40P01",
        "26000",
        "42P05",
    }


def test_what_was_committed_by_nobody() -> None:
    assert nothing_committed(error_of("57P01"))
    assert not nothing_committed(error_of("57P02"))
    assert not nothing_committed(psycopg.OperationalError("server closed the connection unexpectedly"))


@pytest.mark.parametrize(
    "text", ["could not translate host name", "Connection refused", "connection timeout expired"]
)
def test_no_connection(text: str) -> None:
    assert type(connect_problem(psycopg.OperationalError(text))) is StorageUnavailable


def test_the_sentences_of_the_driver_end_with_a_full_stop() -> None:
    text = "port 1 failed: Connection refused\n\tIs the server running on that host?"
    assert "Connection refused. Is the server running" in str(connect_problem(psycopg.OperationalError(text)))
