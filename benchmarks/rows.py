"""The rows of the table, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from . import ours
from .floors import memory, postgres_jobs, postgres_keys, postgres_prune, sqlite
from .model import Contender, Environment, Figure, Measure, Row, Size, row, sized
from .peers import peers_of
from .processes import cpu_milliseconds
from .workload import BATCH

_WORKERS = 4
_SHORT = (1, 3, 7)
_HISTORY: dict[Size, tuple[int, int, int]] = {
    "tiny": (100, 50, 20),
    "quick": (100_000, 10_000, 5_000),
    "full": (1_000_000, 100_000, 50_000),
}
"""Finished, future and waiting jobs."""

_Open = Callable[[Environment], AbstractContextManager[Measure]]


def _contenders(floor: _Open, assistly: _Open, lean: _Open | None = None) -> list[Contender]:
    found = [Contender("raw driver", floor, role="floor"), Contender("Assistly", assistly)]
    if lean is not None:
        found.append(Contender("raw driver, lean table", lean, role="reference"))
    return found


def _on_tables(
    floor: Callable[..., AbstractContextManager[Measure]], assistly: _Open, **options: int
) -> list[Contender]:
    """With a floor that runs on the contract's table of jobs, and on the lean one."""
    tables = sqlite if floor.__module__ == sqlite.__name__ else postgres_jobs
    return _contenders(
        partial(floor, table=tables.CONTRACT, **options),
        assistly,
        partial(floor, table=tables.LEAN, **options),
    )


@contextmanager
def _small_table(environment: Environment, limit: int) -> Iterator[Measure]:
    with ours.drain(environment, ours.postgres, limit) as measure:
        yield measure


@contextmanager
def _beside(environment: Environment, limit: int) -> Iterator[Measure]:
    with ours.drain_beside(environment, limit, _HISTORY[environment.size]) as measure:
        yield measure


@contextmanager
def _raw_beside(environment: Environment, limit: int) -> Iterator[Measure]:
    history = _HISTORY[environment.size]
    with postgres_jobs.drain_beside(environment, postgres_jobs.CONTRACT, limit, history) as measure:
        yield measure


def _history(key: str, how: str, limit: int, sizes: tuple[int, int, int]) -> Row:
    small = "raw driver on a small table"
    return row(
        key,
        f"drain {how} beside finished, future and waiting jobs, Postgres",
        "jobs/s",
        sizes,
        Contender("Assistly on a small table", partial(_small_table, limit=limit), role="floor"),
        Contender("Assistly", partial(_beside, limit=limit)),
        Contender(
            small,
            partial(postgres_jobs.drain, table=postgres_jobs.CONTRACT, limit=limit),
            role="reference",
            against=small,
        ),
        Contender("raw driver", partial(_raw_beside, limit=limit), role="reference", against=small),
    )


_QUEUE = (
    row(
        "pg-enqueue",
        "enqueue one, Postgres",
        "jobs/s",
        (20, 2000, 4000),
        *_on_tables(postgres_jobs.enqueue, partial(ours.enqueue, opened=ours.postgres)),
    ),
    row(
        "pg-bulk-10k",
        "bulk enqueue of 10,000 with ids, Postgres",
        "jobs/s",
        (100, 10_000, 10_000),
        *_on_tables(postgres_jobs.bulk, ours.bulk),
    ),
    row(
        "pg-bulk-100k",
        "bulk enqueue of 100,000 with ids, Postgres",
        "jobs/s",
        (200, 100_000, 100_000),
        *_on_tables(postgres_jobs.bulk, ours.bulk),
        rounds=_SHORT,
    ),
    row(
        "pg-drain",
        f"drain in batches of {BATCH}, Postgres",
        "jobs/s",
        (250, 5000, 30_000),
        *_on_tables(postgres_jobs.drain, partial(ours.drain, opened=ours.postgres), limit=BATCH),
    ),
    row(
        "pg-drain-4",
        f"drain in batches of {BATCH} by {_WORKERS} processes, Postgres",
        "jobs/s",
        (500, 10_000, 60_000),
        *_on_tables(
            postgres_jobs.drain_in_parallel,
            partial(ours.drain_in_parallel, workers=_WORKERS),
            workers=_WORKERS,
        ),
    ),
    row(
        "pg-drain-one",
        "drain one by one, Postgres",
        "jobs/s",
        (10, 1500, 5000),
        *_on_tables(postgres_jobs.drain, partial(ours.drain, opened=ours.postgres, limit=1), limit=1),
    ),
    _history("pg-history", "in batches", BATCH, (250, 5000, 20_000)),
    _history("pg-history-one", "one by one", 1, (10, 1000, 2000)),
    Row(
        "pg-pickup",
        "pick-up by an idle worker, Postgres",
        (Figure("ms p50", more_is_better=False), Figure("ms p99", more_is_better=False)),
        sized((3, 30, 200)),
        (
            *_contenders(postgres_jobs.pick_up, ours.pick_up),
            Contender("Assistly's Worker", ours.worker_pick_up, role="reference"),
        ),
        sized(_SHORT),
    ),
)

_WORKER = tuple(
    row(
        f"{engine}-worker-{concurrency}",
        f"the worker, concurrency {concurrency}, {name}",
        "jobs/s",
        (20, 3000, 10_000),
        *_contenders(floor, partial(ours.work, opened=opened, concurrency=concurrency)),
        rounds=_SHORT,
    )
    for concurrency in (16, 64)
    for engine, name, floor, opened in (
        ("pg", "Postgres", partial(postgres_jobs.work, concurrency=concurrency), ours.postgres),
        ("sqlite", "SQLite", sqlite.work, ours.on_sqlite),
    )
)

_KEYS = (
    row(
        "pg-nonce",
        "put if absent: a nonce, Postgres",
        "keys/s",
        (20, 1000, 4000),
        *_contenders(postgres_keys.put_nonce, partial(ours.put_nonce, opened=ours.postgres)),
    ),
    row(
        "pg-key",
        "put if absent: an idempotency key, Postgres",
        "keys/s",
        (20, 1000, 4000),
        *_contenders(postgres_keys.claim_key, partial(ours.claim_key, opened=ours.postgres)),
    ),
    row(
        "pg-nonces",
        "put if absent: 100 nonces at once, Postgres",
        "keys/s",
        (200, 10_000, 50_000),
        *_contenders(postgres_keys.put_nonces, partial(ours.put_nonces, opened=ours.postgres)),
    ),
)

_LOCAL = (
    row(
        "sqlite-enqueue",
        "enqueue one, SQLite",
        "jobs/s",
        (20, 5000, 20_000),
        *_on_tables(sqlite.enqueue, partial(ours.enqueue, opened=ours.on_sqlite)),
    ),
    row(
        "sqlite-nonce",
        "put if absent: a nonce, SQLite",
        "keys/s",
        (20, 10_000, 30_000),
        *_contenders(sqlite.put_nonce, partial(ours.put_nonce, opened=ours.on_sqlite)),
    ),
    row(
        "sqlite-nonces",
        "put if absent: 100 nonces at once, SQLite",
        "keys/s",
        (200, 20_000, 100_000),
        *_contenders(sqlite.put_nonces, partial(ours.put_nonces, opened=ours.on_sqlite)),
    ),
    row(
        "sqlite-drain",
        f"drain in batches of {BATCH}, SQLite",
        "jobs/s",
        (250, 10_000, 50_000),
        *_on_tables(sqlite.drain, partial(ours.drain, opened=ours.on_sqlite)),
    ),
    row(
        "memory-nonce",
        "put if absent: a nonce, memory",
        "keys/s",
        (20, 20_000, 100_000),
        *_contenders(memory.put_nonce, partial(ours.put_nonce, opened=ours.in_memory)),
    ),
    row(
        "memory-schedule",
        "enqueue one, memory",
        "jobs/s",
        (20, 10_000, 50_000),
        *_contenders(memory.enqueue, partial(ours.enqueue, opened=ours.in_memory)),
    ),
    row(
        "memory-drain",
        f"drain in batches of {BATCH}, memory",
        "jobs/s",
        (250, 10_000, 50_000),
        *_contenders(memory.drain, partial(ours.drain, opened=ours.in_memory)),
    ),
)

_PRUNE = Row(
    "pg-prune",
    "prune 60 % of the finished jobs, Postgres",
    (Figure("rows/s"), Figure("ms, longest statement", more_is_better=False)),
    sized((60, 60_000, 600_000)),
    _contenders(postgres_prune.floor, ours.prune),
    sized((1, 3, 5)),
)

_PRUNE_NONCES = Row(
    "pg-prune-nonces",
    "prune old nonces, Postgres",
    (Figure("nonces/s"), Figure("times as long for each, against a tenth of them", more_is_better=False)),
    sized((60, 100_000, 1_000_000)),
    _contenders(postgres_prune.nonces_floor, ours.prune_nonces),
    sized((1, 3, 5)),
)

_CALLS = {1: (20, 500, 2000), 10: (20, 1000, 5000), 50: (100, 2000, 10_000)}
_CALLERS = {1: "1 caller", 10: "10 callers at once", 50: "50 callers at once"}
_AWAIT_NONCES = tuple(
    row(
        f"await-nonce-{callers}",
        f"put if absent with await, {_CALLERS[callers]}, Postgres",
        "calls/s",
        sizes,
        *_contenders(
            partial(postgres_keys.await_nonces, callers=callers), partial(ours.await_nonces, callers=callers)
        ),
    )
    for callers, sizes in _CALLS.items()
)
_AWAIT_SESSIONS = tuple(
    row(
        f"await-session-{callers}",
        f"put a session with await, {_CALLERS[callers]}, Postgres",
        "calls/s",
        sizes,
        *_contenders(
            partial(postgres_keys.await_sessions, callers=callers),
            partial(ours.await_sessions, callers=callers),
        ),
    )
    for callers, sizes in _CALLS.items()
)


@contextmanager
def _process(environment: Environment, statement: str) -> Iterator[Measure]:
    yield partial(
        cpu_milliseconds,
        lambda: statement.format(path=environment.new_path()),
        environment.folder / "compiled",
    )


def _processes(key: str, title: str, floor: str, assistly: str) -> Row:
    return Row(
        key,
        title,
        (Figure("ms of CPU", more_is_better=False),),
        sized((1, 3, 5)),
        (
            Contender(floor, partial(_process, statement=floor), role="floor"),
            Contender(assistly, partial(_process, statement=assistly)),
        ),
        sized((1, 4, 11)),
    )


_PROCESSES = (
    _processes(
        "import",
        "import, no engine opened",
        "import json, dataclasses, typing, datetime",
        "import assistly.storage",
    ),
    _processes(
        "open-sqlite",
        "import, open SQLite on a new file, close",
        "import sqlite3; sqlite3.connect('{path}').close()",
        "from assistly.storage import open_storage; "
        "open_storage(engine='sqlite', sqlite_path='{path}').close()",
    ),
)


def _with_peers(one: Row) -> Row:
    return replace(one, contenders=(*one.contenders, *peers_of(one.key)))


def _over_network(one: Row) -> Row:
    """The same row, with half a millisecond added each way."""
    key = f"net-{one.key.removeprefix('pg-')}"
    return replace(one, key=key, title=f"{one.title}, 0.5 ms away", network=True)


_SOCKET = [
    _with_peers(one)
    for one in (*_QUEUE, *_WORKER, *_KEYS, *_LOCAL, _PRUNE, _PRUNE_NONCES, *_AWAIT_NONCES, *_PROCESSES)
]
_AWAY = ("pg-enqueue", "pg-drain-one", "pg-nonce", "pg-key", "await-nonce-50")

ROWS: tuple[Row, ...] = (
    *_SOCKET,
    *(_over_network(one) for one in _SOCKET if one.key in _AWAY),
    *(_over_network(one) for one in _AWAIT_SESSIONS),
)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows of these names; a name that no row has stands for all that begin with it.

    Raises ValueError for one that none begins with.
    """
    unknown = [name for name in names if not any(row.key.startswith(name) for row in ROWS)]
    if unknown:
        raise ValueError(f"no row is called {', '.join(unknown)}")
    exact = {row.key for row in ROWS}.intersection(names)
    prefixes = tuple(name for name in names if name not in exact) if names else ("",)
    return [row for row in ROWS if row.key in exact or row.key.startswith(prefixes)]
