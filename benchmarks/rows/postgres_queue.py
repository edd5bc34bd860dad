"""The queue on Postgres: enqueue, drain, and what history costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from .. import ours
from ..crowd import crowd
from ..floors import (
    postgres_bulk,
    postgres_drain,
    postgres_drain_one,
    postgres_enqueue,
    postgres_listen,
)
from ..floors.postgres_table import filler, jobs_table, load_history
from ..model import ROUNDS, Contender, Figure, Round, Row, Scale, Surroundings, throughput
from ..pickup import storage_picks_up
from ..workload import BATCH, until_empty

WORKERS = 4
_HISTORY: dict[Scale, tuple[int, int, int]] = {
    "tiny": (100, 50, 20),
    "quick": (100_000, 10_000, 5_000),
    "full": (1_000_000, 100_000, 50_000),
}


@contextmanager
def _enqueue(at: Surroundings) -> Iterator[Round]:
    with ours.postgres(at) as (storage, _):
        yield ours.enqueues(storage)


@contextmanager
def _drain(at: Surroundings, limit: int) -> Iterator[Round]:
    with ours.postgres(at) as (storage, connection):
        yield ours.drains(storage, ours.filler(connection), limit)


@contextmanager
def _drain_beside(at: Surroundings, limit: int) -> Iterator[Round]:
    with ours.postgres(at) as (storage, connection):
        ours.load_history(connection, *_HISTORY[at.scale])
        yield ours.drains(storage, ours.filler(connection, keep=True), limit)


@contextmanager
def _raw_drain_beside(at: Surroundings, limit: int) -> Iterator[Round]:
    with jobs_table(at) as (_, connection):
        load_history(connection, *_HISTORY[at.scale])
        yield throughput(until_empty(postgres_drain.step(connection, limit)), filler(connection, keep=True))


@contextmanager
def _crowd(at: Surroundings) -> Iterator[Round]:
    with ours.postgres_schema(at) as (schema, connection):
        settings = ours.postgres_settings(at, schema)
        with crowd(WORKERS, ours.worker, (settings,), ours.filler(connection)) as measure:
            yield measure


@contextmanager
def _raw_crowd(at: Surroundings) -> Iterator[Round]:
    with jobs_table(at) as (schema, connection):
        arguments = (at.database_url, schema)
        with crowd(WORKERS, postgres_drain.worker, arguments, filler(connection)) as measure:
            yield measure


@contextmanager
def _pick_up(at: Surroundings) -> Iterator[Round]:
    with at.new_schema() as schema, storage_picks_up(ours.postgres_settings(at, schema)) as measure:
        yield measure


def _history_row(key: str, title: str, limit: int, sizes: dict[Scale, int]) -> Row:
    return Row(
        key,
        title,
        (Figure("jobs/s", 0.90),),
        sizes,
        (
            Contender("Assistly on a small table", partial(_drain, limit=limit), role="floor"),
            Contender("Assistly", partial(_drain_beside, limit=limit), "beside the history"),
            Contender(
                "raw driver on a small table",
                partial(postgres_drain.floor, limit=limit),
                role="reference",
                against="raw driver on a small table",
            ),
            Contender(
                "raw driver",
                partial(_raw_drain_beside, limit=limit),
                "beside the history",
                role="reference",
                against="raw driver on a small table",
            ),
        ),
    )


def _row(
    key: str,
    title: str,
    goal: float,
    sizes: dict[Scale, int],
    floor: Callable[[Surroundings], AbstractContextManager[Round]],
    assistly: Callable[[Surroundings], AbstractContextManager[Round]],
    *references: Contender,
    rounds: Mapping[Scale, int] = ROUNDS,
) -> Row:
    return Row(
        key,
        title,
        (Figure("jobs/s", goal),),
        sizes,
        (Contender("raw driver", floor, role="floor"), Contender("Assistly", assistly), *references),
        rounds=rounds,
    )


_BINARY_COPY = Contender(
    "raw driver, binary COPY", partial(postgres_bulk.floor, binary=True), role="reference"
)

ROWS = (
    _row(
        "pg-enqueue",
        "enqueue one, Postgres",
        0.90,
        {"tiny": 20, "quick": 2000, "full": 4000},
        postgres_enqueue.floor,
        _enqueue,
        Contender("raw driver, no cursor", postgres_enqueue.without_cursor, role="reference"),
    ),
    _row(
        "pg-bulk-10k",
        "bulk enqueue of 10,000 with ids, Postgres",
        0.60,
        {"tiny": 100, "quick": 10_000, "full": 10_000},
        postgres_bulk.floor,
        ours.postgres_bulk,
        _BINARY_COPY,
    ),
    _row(
        "pg-bulk-100k",
        "bulk enqueue of 100,000 with ids, Postgres",
        0.60,
        {"tiny": 200, "quick": 100_000, "full": 100_000},
        postgres_bulk.floor,
        ours.postgres_bulk,
        _BINARY_COPY,
        rounds={"tiny": 1, "quick": 3, "full": 7},
    ),
    _row(
        "pg-drain",
        f"drain in batches of {BATCH}, Postgres",
        0.85,
        {"tiny": 250, "quick": 5000, "full": 30_000},
        postgres_drain.floor,
        partial(_drain, limit=BATCH),
    ),
    _row(
        "pg-drain-4",
        f"drain in batches of {BATCH} by {WORKERS} processes, Postgres",
        0.85,
        {"tiny": 500, "quick": 10_000, "full": 60_000},
        _raw_crowd,
        _crowd,
    ),
    _row(
        "pg-drain-one",
        "drain one by one, Postgres",
        0.90,
        {"tiny": 10, "quick": 1500, "full": 5000},
        postgres_drain_one.floor,
        partial(_drain, limit=1),
    ),
    _history_row(
        "pg-history",
        "drain in batches beside finished, future and retrying jobs, Postgres",
        BATCH,
        {"tiny": 250, "quick": 5000, "full": 20_000},
    ),
    _history_row(
        "pg-history-one",
        "drain one by one beside finished, future and retrying jobs, Postgres",
        1,
        {"tiny": 10, "quick": 1000, "full": 2000},
    ),
    Row(
        "pg-pickup",
        "pick-up by an idle worker, Postgres",
        (Figure("ms p50", 1.3, more_is_better=False), Figure("ms p99", 2.0, more_is_better=False)),
        {"tiny": 3, "quick": 30, "full": 200},
        (Contender("raw driver", postgres_listen.floor, role="floor"), Contender("Assistly", _pick_up)),
        rounds={"tiny": 1, "quick": 3, "full": 7},
    ),
)
