"""The storage in the transactions of Django: an order and its job are stored together or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

from assistly.storage import (
    AsyncStorage,
    InvalidValue,
    PostgresBackend,
    ScheduleConflict,
    SqliteBackend,
    Storage,
    StorageClosed,
    StorageUnavailable,
)
from assistly.storage.engines.sql.binding import cannot_be_bound
from assistly.storage.frameworks import CallersConnection

if not settings.configured:
    settings.configure(USE_TZ=True, TIME_ZONE="America/New_York")
    django.setup()

from django.db import IntegrityError, connection, connections, models, transaction
from django.test import TestCase

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Order(models.Model):  # type: ignore[misc]
    item = models.TextField(unique=True)
    placed_at = models.DateTimeField(default=NOW)

    class Meta:
        app_label = "shop"
        db_table = "orders"


class Shop:
    """A storage, and the default database of Django, which is the same."""

    def __init__(self, storage: Storage, database: dict[str, Any]) -> None:
        self.storage = storage
        self._database = database
        self.configure()
        with connection.schema_editor() as editor:
            editor.create_model(Order)

    def configure(self, **options: Any) -> None:
        """Connect Django anew, with these OPTIONS besides."""
        self.close()
        database = self._database | {"OPTIONS": self._database["OPTIONS"] | options}
        connections.settings["default"] = connections.configure_settings({"default": database})["default"]

    def close(self) -> None:
        connection.close()
        if hasattr(connection, "close_pool"):  # since Django 5.1
            connection.close_pool()
        del connections["default"]

    def place(self, item: str, **options: Any) -> None:
        with transaction.atomic():
            self.storage.bind(connection).queue.schedule("x", item, NOW, **options)
            Order.objects.create(item=item)

    @property
    def stored(self) -> tuple[list[str], list[str]]:
        """The items of the orders, and the contents of the jobs."""
        items = list(Order.objects.order_by("item").values_list("item", flat=True))
        return items, sorted(job.content for job in self.storage.queue.list())


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        backend: Any = SqliteBackend(path)
        database: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": {}}
    else:
        url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
        backend = PostgresBackend(url, schema=schema)
        target = conninfo_to_dict(url)
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": target["dbname"],
            "USER": target["user"],
            "HOST": target["host"],
            "OPTIONS": {"options": f"-c search_path={schema}"},
        }
    with Storage(backend, auto_prune=False) as storage:
        storage.ping()
        shop = Shop(storage, database)
        yield shop
        shop.close()


def test_both_are_committed_or_rolled_back(shop: Shop) -> None:
    shop.place("bread")
    with pytest.raises(KeyError), transaction.atomic():
        shop.place("cake")
        raise KeyError
    with pytest.raises(IntegrityError):
        shop.place("bread")
    with transaction.atomic():
        shop.place("scone")
        transaction.set_rollback(True)
    assert shop.stored == (["bread"],) * 2


def test_another_database(shop: Shop, path: Path, request: pytest.FixtureRequest) -> None:
    backend: Any = SqliteBackend(path.with_name("other.db"))
    if connection.vendor == "postgresql":
        backend = PostgresBackend(request.getfixturevalue("own_database"))
    with Storage(backend, auto_prune=False) as other:
        with transaction.atomic():
            with pytest.raises(InvalidValue, match="but this storage is in "):
                other.bind(connection)
            shop.place("bread")
        assert other.queue.list() == []
    assert shop.stored == (["bread"],) * 2


@pytest.mark.parametrize("get", [lambda: connection, lambda: connections["default"]])
def test_the_proxy_and_the_connection(shop: Shop, get: Callable[[], Any]) -> None:
    with transaction.atomic():
        shop.storage.bind(get()).queue.schedule("x", "bread", NOW)
        assert shop.storage.queue.list() == []
    assert shop.stored == ([], ["bread"])


def test_blocks_inside_blocks(shop: Shop) -> None:
    with transaction.atomic():
        bound = shop.storage.bind(connection)
        bound.queue.schedule("x", "bread", NOW)
        with suppress(KeyError), transaction.atomic():
            bound.queue.schedule("x", "cake", NOW)
            shop.place("cake")
            raise KeyError
        with transaction.atomic():
            bound.queue.schedule("x", "scone", NOW)
        with suppress(KeyError), bound.transaction() as tx:
            tx.queue.schedule("x", "tart", NOW)
            Order.objects.create(item="tart")
            raise KeyError
        with transaction.atomic(savepoint=False):
            shop.storage.bind(connection).queue.schedule("x", "pie", NOW)
        Order.objects.create(item="bread")
    assert shop.stored == (["bread"], ["bread", "pie", "scone"])


def test_after_the_commit(shop: Shop) -> None:
    seen: list[int] = []
    with transaction.atomic():
        shop.place("bread")
        transaction.on_commit(lambda: seen.append(len(shop.storage.queue.list())))
        assert seen == []
    assert seen == [1]


def test_outside_a_transaction(shop: Shop) -> None:
    with pytest.raises(InvalidValue) as caught:
        shop.storage.bind(connection)
    assert str(caught.value) == (
        "Django's connection 'default' is not in an atomic() block: "
        "bind it inside `with transaction.atomic():`"
    )


def test_a_transaction_without_atomic(shop: Shop) -> None:
    """One of `set_autocommit(False)`: what ends it, the storage could not see."""
    transaction.set_autocommit(False)
    try:
        Order.objects.count()
        with pytest.raises(InvalidValue, match=r"is not in an atomic\(\) block"):
            shop.storage.bind(connection)
        with transaction.atomic():
            shop.place("bread")
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert shop.stored == (["bread"],) * 2


def test_after_the_end_of_the_block(shop: Shop) -> None:
    def refused() -> None:
        for call in (
            lambda: bound.queue.schedule("x", "late", NOW),
            bound.queue.list,
            bound.transaction().__enter__,
        ):
            with pytest.raises(StorageClosed, match=r"the atomic\(\) block of Django .* has ended: bind it"):
                call()

    with transaction.atomic():
        with transaction.atomic():
            bound = shop.storage.bind(connection)
            bound.queue.schedule("x", "bread", NOW)
        refused()
    refused()
    with transaction.atomic():
        refused()
    connection.close()
    refused()
    with pytest.raises(StorageUnavailable, match="leave the block first"), transaction.atomic():
        block = shop.storage.bind(connection).transaction()
        block.__enter__().queue.schedule("x", "late", NOW)
        connection.close()
        block.__exit__(None, None, None)
    assert shop.stored == ([], ["bread"])


def test_in_a_block_that_will_be_rolled_back(shop: Shop) -> None:
    shop.place("bread")
    with transaction.atomic():
        bound = shop.storage.bind(connection)
        with suppress(IntegrityError):
            Order(item="bread").save()
        with pytest.raises(StorageUnavailable, match=r"will be rolled back: leave the block first"):
            bound.queue.schedule("x", "late", NOW)
        with pytest.raises(StorageUnavailable, match=r"will be rolled back: leave the block first"):
            shop.storage.bind(connection)
    assert shop.stored == (["bread"],) * 2


def test_an_error_of_the_storage_leaves_the_transaction_open(shop: Shop) -> None:
    with transaction.atomic():
        shop.place("bread")
        with pytest.raises(ScheduleConflict):
            shop.place("cake", min_gap=timedelta(minutes=1))
    assert shop.stored == (["bread"],) * 2


def test_in_another_thread(shop: Shop) -> None:
    with ThreadPoolExecutor(1) as thread, transaction.atomic():
        own = connections["default"]
        bound = shop.storage.bind(own)
        for call in (bound.queue.list, lambda: shop.storage.bind(own)):
            with pytest.raises(InvalidValue, match="belongs to another thread"):
                thread.submit(call).result()
        with pytest.raises(InvalidValue, match=r"is not in an atomic\(\) block"):
            thread.submit(lambda: shop.storage.bind(connection)).result()


def test_threads_side_by_side(shop: Shop) -> None:
    def place(number: int) -> bool:
        try:
            shop.place(f"{number}", min_gap=timedelta(minutes=1))
        except ScheduleConflict:
            return False
        finally:
            connection.close()
        return True

    if connection.vendor == "sqlite":
        # Without it, a transaction that reads before it writes fails at once beside another one.
        with suppress(TypeError):
            shop.configure(transaction_mode="IMMEDIATE")
        if django.VERSION < (5, 1):
            pytest.skip("transaction_mode came with Django 5.1")
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(place, range(12))) == 1
    items, contents = shop.stored
    assert items == contents


def test_a_storage_that_is_opened_in_the_transaction(shop: Shop) -> None:
    """Where its tables exist, opening writes nothing: on SQLite that would wait for the transaction."""
    with transaction.atomic():
        Order.objects.create(item="bread")
        if connection.vendor == "sqlite":
            with Storage(SqliteBackend(connection.settings_dict["NAME"]), auto_prune=False) as storage:
                storage.bind(connection).queue.schedule("x", "bread", NOW)
        else:
            shop.storage.bind(connection).queue.schedule("x", "bread", NOW)
    assert shop.stored == (["bread"],) * 2


def test_times_are_the_same_in_whatever_time_zone(shop: Shop) -> None:
    with transaction.atomic():
        bound = shop.storage.bind(connection)
        job = bound.queue.schedule("x", "bread", NOW, metadata={"a": [1, "é", None]})
        found = bound.queue.get(job.id)
        assert found is not None
        assert (found.scheduled_at, found.scheduled_at.tzinfo, found.metadata) == (NOW, UTC, job.metadata)
        order = Order.objects.create(item="bread")
        order.refresh_from_db()
        assert (order.placed_at, order.placed_at.tzname()) == (NOW, "UTC")
    assert shop.storage.queue.get(job.id) == found


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"server_side_binding": True},
        {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE},
        {"prepare_threshold": 0},
        {"pool": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_options_of_postgres(shop: Shop, options: dict[str, Any]) -> None:
    if "pool" in options and django.VERSION < (5, 1):
        pytest.skip("the pool came with Django 5.1")
    shop.configure(**options)
    for _ in range(3):
        with transaction.atomic():
            shop.storage.bind(connection).queue.schedule("x", "bread", NOW)
            assert len(shop.storage.bind(connection).queue.list()) == 1
            transaction.set_rollback(True)
        connection.close()
    shop.place("bread")
    assert shop.stored == (["bread"],) * 2


def test_the_connection_is_as_it_was(shop: Shop) -> None:
    def look() -> dict[str, Any]:
        connection.ensure_connection()
        raw = connection.connection
        if isinstance(raw, sqlite3.Connection):
            names = ("row_factory", "text_factory", "isolation_level", "in_transaction")
            pragmas = ("busy_timeout", "foreign_keys", "synchronous", "temp_store")
            return {name: getattr(raw, name) for name in names} | {
                name: raw.execute(f"PRAGMA {name}").fetchall() for name in pragmas
            }
        own = {name: value for name, value in vars(raw).items() if name not in ("_prepared", "lock")}
        rows = raw.execute("SELECT name, setting FROM pg_settings ORDER BY name").fetchall()
        return own | {"settings": rows}

    before = look()
    shop.place("bread")
    assert look() == before


def test_in_the_test_cases_of_django(shop: Shop) -> None:
    class Tests(TestCase):  # type: ignore[misc]
        @classmethod
        def setUpTestData(cls) -> None:
            shop.place("of the class")

        def test_place(self) -> None:
            with self.captureOnCommitCallbacks() as callbacks:
                shop.place("of the test")
            assert callbacks == []
            jobs = shop.storage.bind(connection).queue.list()
            assert [job.content for job in jobs] == ["of the class", "of the test"]

        test_place_again = test_place

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    assert (result.testsRun, result.errors, result.failures) == (2, [], [])
    assert shop.stored == ([], [])


def test_in_a_thread_of_an_async_view(shop: Shop) -> None:
    def work(item: str, fails: bool) -> None:
        try:
            with transaction.atomic():
                shop.place(item)
                if fails:
                    raise KeyError
        finally:
            connection.close()
            del connections["default"]  # the thread is not a new one for the next test

    async def view() -> None:
        await asyncio.gather(*(sync_to_async(work)(f"{number}", False) for number in range(5)))
        with pytest.raises(KeyError):
            await sync_to_async(work)("bread", True)

    asyncio.run(view())
    assert shop.stored == ([f"{number}" for number in range(5)],) * 2


def test_a_storage_with_await(shop: Shop) -> None:
    async def main() -> None:
        storage = AsyncStorage(shop.storage)
        with pytest.raises(InvalidValue, match=r"Django's transactions are synchronous: with sync_to_async"):
            await storage.bind(connection)

    asyncio.run(main())


def test_what_is_no_connection_of_the_same_database(shop: Shop, path: Path, postgres: Storage) -> None:
    other = postgres
    if connection.vendor == "postgresql":
        other = Storage(SqliteBackend(path), auto_prune=False)
    words = r"uses the driver .*: use the ENGINE django\.db\.backends\."
    with other, transaction.atomic(), pytest.raises(InvalidValue, match=words):
        other.bind(connection)
    with pytest.raises(InvalidValue, match=r"ConnectionHandler: bind one of them"):
        shop.storage.bind(connections)


def test_another_driver() -> None:
    driver = type("connection", (), {"__module__": "psycopg2.extensions"})()
    callers = CallersConnection(driver, "django.utils.connection.ConnectionProxy", "Django")
    assert str(cannot_be_bound(callers, psycopg.Connection)).endswith(
        "uses the driver psycopg2, and the engine of this storage psycopg: "
        "use the ENGINE django.db.backends.postgresql, with psycopg 3 installed"
    )
