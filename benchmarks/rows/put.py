"""Put if absent: nonces and idempotency keys on every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from assistly.storage import Storage

from .. import ours
from ..floors import (
    memory_put,
    postgres_idempotency,
    postgres_put,
    postgres_put_batch,
    sqlite_put,
    sqlite_put_batch,
)
from ..model import Contender, Figure, Round, Row, Scale, Surroundings

_Open = Callable[[Surroundings], AbstractContextManager[Round]]
_Measure = Callable[[Storage], Round]


@contextmanager
def _on_postgres(at: Surroundings, measure: _Measure) -> Iterator[Round]:
    with ours.postgres(at) as (storage, _):
        yield measure(storage)


@contextmanager
def _on_sqlite(at: Surroundings, measure: _Measure) -> Iterator[Round]:
    with ours.sqlite(at) as storage:
        yield measure(storage)


@contextmanager
def _in_memory(at: Surroundings, measure: _Measure) -> Iterator[Round]:
    with ours.memory(at) as storage:
        yield measure(storage)


def _row(
    key: str,
    title: str,
    goal: float,
    sizes: tuple[int, int, int],
    floor: _Open,
    assistly: _Open,
    *references: Contender,
) -> Row:
    scales: tuple[Scale, ...] = ("tiny", "quick", "full")
    return Row(
        key,
        title,
        (Figure("keys/s", goal),),
        dict(zip(scales, sizes, strict=True)),
        (Contender("raw driver", floor, role="floor"), Contender("Assistly", assistly), *references),
    )


ROWS = (
    _row(
        "pg-nonce",
        "put if absent: a nonce, Postgres",
        0.90,
        (20, 1000, 4000),
        postgres_put.floor,
        partial(_on_postgres, measure=ours.registers),
        Contender("raw driver, no cursor", postgres_put.without_cursor, role="reference"),
    ),
    _row(
        "pg-idempotency",
        "put if absent: an idempotency key, Postgres",
        0.90,
        (20, 1000, 4000),
        postgres_idempotency.floor,
        partial(_on_postgres, measure=ours.claims_keys),
    ),
    _row(
        "pg-nonce-batch",
        "put if absent: 100 nonces at once, Postgres",
        0.85,
        (200, 10_000, 50_000),
        postgres_put_batch.floor,
        partial(_on_postgres, measure=ours.registers_batches),
    ),
    _row(
        "sqlite-nonce",
        "put if absent: a nonce, SQLite",
        0.75,
        (20, 10_000, 30_000),
        sqlite_put.floor,
        partial(_on_sqlite, measure=ours.registers),
    ),
    _row(
        "sqlite-nonce-batch",
        "put if absent: 100 nonces at once, SQLite",
        0.60,
        (200, 20_000, 100_000),
        sqlite_put_batch.floor,
        partial(_on_sqlite, measure=ours.registers_batches),
    ),
    _row(
        "memory-nonce",
        "put if absent: a nonce, memory",
        0.60,
        (20, 50_000, 200_000),
        memory_put.floor,
        partial(_in_memory, measure=ours.registers),
    ),
)
