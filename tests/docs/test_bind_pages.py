"""The pages about the transactions of other libraries: their code runs, from top to bottom."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.ext.asyncio import create_async_engine

from assistly.storage import open_async_storage, open_storage

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def test_the_code_for_sqlalchemy_runs(tmp_path: Path) -> None:
    page = (PAGES / "sqlalchemy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_alembic_leaves_the_tables_alone(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = (PAGES / "sqlalchemy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(def include_name.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    if engine == "sqlite":
        open_storage(engine="sqlite", sqlite_path=tmp_path / "shop.db").close()
        database = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    else:
        url = request.getfixturevalue("own_database")
        open_storage(engine="postgres", database_url=url).close()
        database = sa.create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(url))
    with database.connect() as connection:
        for options, dropped in (({}, True), ({"include_name": names["include_name"]}, False)):
            context = MigrationContext.configure(connection, opts=options)
            changes = compare_metadata(context, sa.MetaData())
            assert any(change[0] == "remove_table" for change in changes) is dropped
    database.dispose()


def test_the_code_for_psycopg_runs(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (PAGES / "transactions.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(import os\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("DATABASE_URL", own_database)
    for _ in range(2):
        exec(block, {"open_storage": open_storage})
    with psycopg.connect(own_database) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM assistly_queue_jobs").fetchone() == (2,)


@pytest.fixture(params=["sqlite", "URL of Postgres", "conninfo of Postgres"])
def one_configuration(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The variables, and the names that the block on the page needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", request.param.rpartition(" ")[2].lower())
    if request.param != "sqlite":
        url = request.getfixturevalue("database_url")
        monkeypatch.setenv("DATABASE_URL", url if request.param.startswith("URL") else make_conninfo(url))
        monkeypatch.setenv("STORAGE_SCHEMA", request.getfixturevalue("schema"))
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SQLITE_PATH", "~/a folder/what?.db")
    return {"create_engine": sa.create_engine}


def test_one_configuration(one_configuration: dict[str, Any]) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.migrate()
        exec(configuration_block(), one_configuration)
        with one_configuration["engine"].begin() as connection:
            storage.bind(connection).nonces.register("bound")
        one_configuration["engine"].dispose()
        assert storage.nonces.seen("bound")


def test_one_configuration_for_async_engines(one_configuration: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_async_storage(auto_prune=False) as storage:
            await storage.migrate()
            one_configuration["create_engine"] = create_async_engine
            exec(configuration_block().replace('"sqlite",', '"sqlite+aiosqlite",'), one_configuration)
            async with one_configuration["engine"].begin() as connection:
                await (await storage.bind(connection)).nonces.register("bound")
            await one_configuration["engine"].dispose()
            assert await storage.nonces.seen("bound")

    asyncio.run(main())


def configuration_block() -> str:
    page = (PAGES / "sqlalchemy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n([^`]*load_settings\(\).*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(block)
