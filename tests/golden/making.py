"""Makes the database of the newest level, and opens those that there are."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from assistly.storage import PostgresBackend, SqliteBackend, Storage

from .content import Clock, fill, read_all

FOLDER = Path(__file__).parent
MIGRATIONS = FOLDER.parents[1] / "migrations"
SCHEMA = "golden_database"

_DECIDED_SINCE = {"sqlite": "004", "postgres": "007"}
"""The levels since which `fill` writes cancelled jobs, checkpoints and documents."""

_NOT_STATEMENTS = re.compile(
    rb"^(--.*|\\.*|SET .*|SELECT pg_catalog\.set_config.*|CREATE SCHEMA .*|)\n", re.MULTILINE
)


def level_of(migration: str) -> str:
    return migration.partition("_")[0]


def levels(engine: str) -> list[str]:
    return sorted(level_of(path.name) for path in MIGRATIONS.glob(f"*_{engine}.sql"))


def database(engine: str, level: str) -> Path:
    """A file of SQLite, compressed; for Postgres the statements that make it."""
    return FOLDER / f"{engine}-{level}.{'db.gz' if engine == 'sqlite' else 'sql'}"


def records(engine: str, level: str) -> Path:
    """What the version that made the database read of it: where there is no other, what `fill` wrote then."""
    own = FOLDER / f"{engine}-{level}.json"
    return own if own.exists() else _shared(engine, level)


def _shared(engine: str, level: str) -> Path:
    return FOLDER / ("decided.json" if level >= _DECIDED_SINCE[engine] else "filled.json")


def is_filled(engine: str, level: str) -> bool:
    """Whether `fill` made the rows, and not the original system or a script."""
    return records(engine, level) == _shared(engine, level)


def make_sqlite(level: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.db"
        clock = Clock()
        with closing(Storage(SqliteBackend(path), clock=clock, auto_prune=False)) as storage:
            fill(storage, clock)
            found = read_all(storage)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database("sqlite", level).write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    _keep("sqlite", level, found)


def make_postgres(level: str, url: str, pg_dump: str) -> None:
    """The schema's name is left out of the dump, and so are the settings of one version of the server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    clock = Clock()
    with closing(Storage(PostgresBackend(url, schema=SCHEMA), clock=clock, auto_prune=False)) as storage:
        fill(storage, clock)
        found = read_all(storage)
    database("postgres", level).write_bytes(dump(url, pg_dump))
    _keep("postgres", level, found)


def dump(url: str, pg_dump: str) -> bytes:
    """The statements that make the schema and its rows."""
    options = [
        "--schema",
        SCHEMA,
        "--no-owner",
        "--no-privileges",
        "--column-inserts",
        "--rows-per-insert=100",
    ]
    run = subprocess.run([pg_dump, url, *options], capture_output=True, check=True)
    return _NOT_STATEMENTS.sub(b"", run.stdout.replace(f"{SCHEMA}.".encode(), b""))


def _keep(engine: str, level: str, found: dict[str, Any]) -> None:
    """One file serves all databases of which the same was read."""
    shared = _shared(engine, level)
    if shared.exists() and json.loads(shared.read_text(encoding="utf-8")) == found:
        return
    lines = (
        f"{json.dumps(kind)}: {json.dumps(value, separators=(',', ':'))}" for kind, value in found.items()
    )
    path = FOLDER / f"{engine}-{level}.json" if shared.exists() else shared
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def open_sqlite(level: str, path: Path) -> None:
    """Write the file of a level to `path`."""
    path.write_bytes(gzip.decompress(database("sqlite", level).read_bytes()))


def open_postgres(level: str, url: str, schema: str) -> None:
    """Make the database of a level in a schema of any name, on any version of the server."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(schema)
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("SET search_path = {}").format(name))
        connection.execute("SET standard_conforming_strings = on")
        connection.execute(database("postgres", level).read_bytes())
