"""The commands of docs/how-to/backup-and-restore.md bring a storage on Postgres back."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import PostgresBackend, Storage
from docs.blocks import ROOT
from postgres_server import TemporaryServer

PAGE = (ROOT / "docs" / "how-to" / "backup-and-restore.md").read_text(encoding="utf-8")
DUMPS = re.findall(r"^pg_dump .*$", PAGE, re.MULTILINE)
RESTORES = [
    dedent(block) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)[1:]
]


@pytest.mark.parametrize("schema", ["bot", "public"])
def test_a_dump_is_restored(server: TemporaryServer, tmp_path: Path, schema: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE backup_{schema}")
    url = make_conninfo(server.url, dbname=f"backup_{schema}")

    def run(commands: str) -> None:
        path = f"{server.program('psql').parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "DATABASE_URL": url}
        subprocess.run(["bash", "-euc", commands], cwd=tmp_path, env=environment, check=True)

    def open_storage() -> Storage:
        return Storage(PostgresBackend(url, schema=schema), auto_prune=False)

    number = ["bot", "public"].index(schema)
    with open_storage() as storage:
        job = storage.queue.schedule("x", "hello", idempotency_key="k")
    run(DUMPS[number])
    with open_storage() as storage:
        storage.queue.schedule("x", "later")
        storage.queue.cancel(job.id)
    run(RESTORES[number])
    with open_storage() as storage:
        assert storage.queue.list() == [job]
        assert storage.queue.schedule("x", "next").id > job.id
    with psycopg.connect(url) as connection:
        connection.execute("DROP SCHEMA before_restore CASCADE")
    with open_storage() as storage:
        assert len(storage.queue.list()) == 2


def test_each_schema_has_its_commands() -> None:
    assert (len(DUMPS), len(RESTORES)) == (2, 2)
