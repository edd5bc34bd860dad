"""The storage of a Django project: which database it is in, and when it is opened and closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import django
import psycopg
import pytest
from django.conf import settings

if not settings.configured:
    settings.configure(USE_TZ=True, TIME_ZONE="America/New_York")
    django.setup()

from django.db import connections
from django.db.utils import load_backend
from psycopg.conninfo import conninfo_to_dict

from assistly.integrations import django as integration
from assistly.integrations.django import apps, close_storages, get_storage, make_tables
from assistly.storage import ConfigurationError, StorageClosed, open_storage

Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Makes a database one of Django's."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(integration, "connections", found)
    for name in ("STORAGE_ENGINE", "SQLITE_PATH", "DATABASE_URL"):
        monkeypatch.setenv(name, "not used")

    def use_one(engine: str, alias: str = "default", **database: Any) -> None:
        all_settings = connections.configure_settings({"default": {}, alias: {"ENGINE": engine, **database}})
        found[alias] = load_backend(engine).DatabaseWrapper(all_settings[alias], alias)

    yield use_one
    close_storages()


SQLITE = "django.db.backends.sqlite3"
POSTGRES = "django.db.backends.postgresql"


def test_the_role_that_django_assumes(use: Use, database_url: str, role: str) -> None:
    parts = conninfo_to_dict(database_url)
    names = {"NAME": "dbname", "USER": "user", "HOST": "host", "PORT": "port", "PASSWORD": "password"}
    given = {name: parts[part] for name, part in names.items() if parts.get(part)}
    use(POSTGRES, **given, OPTIONS={"assume_role": role})
    _, place = integration._place("default")
    with psycopg.connect(place) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_each_database_has_one_storage(use: Use, tmp_path: Path) -> None:
    use(SQLITE, NAME=tmp_path / "shop.db")
    shop = get_storage()
    shop.queue.schedule("x", "hello")
    assert get_storage() is shop
    use(SQLITE, NAME=tmp_path / "test_shop.db")  # as Django's test runner does
    assert get_storage().queue.list() == []
    use(SQLITE, NAME=str(tmp_path / "shop.db"))
    assert get_storage() is shop


def test_closing(use: Use, tmp_path: Path) -> None:
    use(SQLITE, NAME=tmp_path / "shop.db")
    before = get_storage()
    before.queue.schedule("x", "hello")
    close_storages()
    close_storages()
    with pytest.raises(StorageClosed):
        before.queue.list()
    assert len(get_storage().queue.list()) == 1


def test_threads_that_open_it_at_once_share_it(
    use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(SQLITE, NAME=tmp_path / "shop.db")
    both, opened = Barrier(2), []

    def open_both(**options: Any) -> Any:
        both.wait()
        opened.append(open_storage(**options))
        return opened[-1]

    monkeypatch.setattr(integration, "open_storage", open_both)
    with ThreadPoolExecutor(2) as pool:
        first, second = [each.result() for each in [pool.submit(get_storage), pool.submit(get_storage)]]
    assert first is second
    (spare,) = [storage for storage in opened if storage is not first]
    with pytest.raises(StorageClosed):
        spare.ping()
    first.ping()


def test_the_tables_are_made_in_one_database(
    use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_AUTO_MIGRATE", "false")
    monkeypatch.setattr(settings, "ASSISTLY_DATABASE", "posts", raising=False)
    use(SQLITE, alias="posts", NAME=tmp_path / "posts.db")
    apps._make_tables(using="default", sender=None)
    assert not (tmp_path / "posts.db").exists()
    apps._make_tables(using="posts", sender=None)
    assert [path.name for path in tmp_path.iterdir()] == ["posts.db"]  # nothing is open
    assert get_storage().queue.list() == []


@pytest.mark.parametrize("password", ["simple", r"it's \ a b=c"])
def test_the_connection_string_of_postgres(use: Use, password: str) -> None:
    options = {"sslmode": "disable", "options": "-c lock_timeout=5s", "server_side_binding": True}
    use(POSTGRES, NAME="shop", USER="ada", PASSWORD=password, HOST="/tmp", PORT=5433, OPTIONS=options)
    engine, place = integration._place("default")
    assert engine == "postgres"
    assert conninfo_to_dict(place) == {
        "dbname": "shop",
        "user": "ada",
        "password": password,
        "host": "/tmp",
        "port": "5433",
        "sslmode": "disable",
        "options": "-c lock_timeout=5s",
    }


def test_postgres(use: Use, database_url: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = conninfo_to_dict(database_url)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    use(POSTGRES, **{names[key]: value for key, value in given.items() if key in names})
    monkeypatch.setenv("STORAGE_SCHEMA", schema)
    make_tables()
    get_storage().queue.schedule("x", "hello")
    with psycopg.connect(database_url) as connection:
        assert connection.execute(f'SELECT count(*) FROM "{schema}".assistly_queue_jobs').fetchone() == (1,)


def test_databases_that_cannot_hold_it(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (":memory:", "file:memorydb_default?mode=memory&cache=shared"):
        use(SQLITE, NAME=name)
        with pytest.raises(ConfigurationError, match=r"'default' is in memory, .* name a file"):
            get_storage()
    use("django.db.backends.dummy")
    with pytest.raises(ConfigurationError, match="'default' is unknown: set ASSISTLY_DATABASE"):
        get_storage()
