"""Migrations: what is applied when, and what is refused."""

from __future__ import annotations

import hashlib
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from assistly.storage import (
    ConfigurationError,
    JobStatus,
    MigrationError,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageBackend,
    StorageError,
)
from assistly.storage.engines.sql import migrations
from assistly.storage.engines.sqlite.driver import sqlite3

SHIPPED = Path(str(resources.files("assistly.storage.migrations")))


class Place(ABC):
    """Where one engine keeps its tables."""

    engine: str

    @abstractmethod
    def backend(self, *, auto_migrate: bool = True) -> StorageBackend: ...

    @abstractmethod
    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Outside the storage; committed."""

    @abstractmethod
    def tables(self) -> set[str]: ...

    @abstractmethod
    def others_may_only_read(self) -> AbstractContextManager[None]: ...

    def open(self, *, auto_migrate: bool = True) -> Storage:
        return Storage(self.backend(auto_migrate=auto_migrate), auto_prune=False)

    def recorded(self) -> list[str]:
        rows = self.query("SELECT name FROM assistly_migrations ORDER BY applied_at, name")
        return [name for (name,) in rows]

    def shipped(self) -> list[str]:
        return sorted(path.name for path in SHIPPED.glob(f"*_{self.engine}.sql"))


class SqlitePlace(Place):
    engine = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path

    def backend(self, *, auto_migrate: bool = True) -> SqliteBackend:
        return SqliteBackend(self.path, auto_migrate=auto_migrate, busy_timeout=timedelta(seconds=2))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    def tables(self) -> set[str]:
        if not self.path.exists():
            return set()
        return {name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")}

    @contextmanager
    def others_may_only_read(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield


class PostgresPlace(Place):
    engine = "postgres"

    def __init__(self, url: str, schema: str) -> None:
        self.url = url
        self.schema = schema

    def backend(self, *, auto_migrate: bool = True) -> PostgresBackend:
        return PostgresBackend(self.url, pool_size=2, schema=self.schema, auto_migrate=auto_migrate)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self._connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def tables(self) -> set[str]:
        with self._connect() as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [self.schema])
            return {name for (name,) in rows}

    @contextmanager
    def others_may_only_read(self) -> Iterator[None]:
        with self._connect() as connection:
            for table in self.tables():
                connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(sql.Identifier(table)))
            yield

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(self.url)
        connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema)))
        connection.commit()
        return connection


class Files:
    """The migrations that the code finds: those shipped, in a folder that may be written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_bytes(text.encode())
        migrations.discover.cache_clear()

    def read(self, name: str) -> str:
        return (self._folder / name).read_bytes().decode()

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()
        migrations.discover.cache_clear()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "assistly.db")
    new_schema = request.getfixturevalue("new_schema")
    return PostgresPlace(request.getfixturevalue("database_url"), new_schema())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    package = f"migrations_{uuid.uuid4().hex}"
    folder = tmp_path / "packages" / package
    folder.mkdir(parents=True)
    for path in SHIPPED.glob("*.sql"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(migrations, "PACKAGE", package)
    migrations.discover.cache_clear()
    yield Files(folder)
    migrations.discover.cache_clear()


def use(storage: Storage) -> None:
    job = storage.queue.schedule("x", "Hello")
    (claimed,) = storage.queue.claim_due(worker_id="w")
    assert storage.queue.mark_posted(claimed).id == job.id
    assert storage.events.append("posted", {"id": job.id}) in storage.events.read_after(0)
    assert storage.sessions.put("user", [1]).version == 1
    assert storage.approvals.add("a", {}).sequence == 1
    assert storage.idempotency.run_once("key", lambda: "value") == "value"
    assert storage.nonces.register("nonce")
    storage.metrics.increment("requests")
    assert storage.metrics.read().counters == {"requests": 1}
    assert storage.lock.acquire("me") is not None
    assert storage.snapshots.put("queue", []) == storage.snapshots.get("queue")
    assert storage.prune(force=True).ran


def test_every_file_belongs_to_an_engine_and_is_applied_in_order() -> None:
    names = {path.name for path in SHIPPED.glob("*.sql")}
    found = {
        engine: [migration.name for migration in migrations.discover(engine)]
        for engine in ("sqlite", "postgres")
    }
    assert names == {*found["sqlite"], *found["postgres"]}
    assert len(names) == len(found["sqlite"]) + len(found["postgres"])
    for engine, applied in found.items():
        assert applied[0] == f"001_init_{engine}.sql"
        assert [int(name[:3]) for name in applied] == [*range(1, len(applied) + 1)]


def test_the_first_one_makes_the_mirror_tables_alone() -> None:
    for engine in ("sqlite", "postgres"):
        script = migrations.discover(engine)[0].sql
        created = re.findall(r"CREATE (?:TABLE|INDEX)(?: IF NOT EXISTS)? (\w+)", script)
        assert created == ["assistly_store", "assistly_events", "idx_events_type_created"]


def test_names_and_checksums_are_recorded(place: Place) -> None:
    with place.open() as storage:
        use(storage)
    assert place.recorded() == place.shipped()
    for name, checksum in place.query("SELECT name, checksum FROM assistly_migrations"):
        assert checksum == hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest()


def test_migrate_names_what_it_applied(place: Place) -> None:
    with place.open(auto_migrate=False) as storage:
        assert storage.migrate() == place.shipped()
        assert storage.migrate() == []
        use(storage)
    with place.open(auto_migrate=False) as storage:
        assert storage.migrate() == []


def test_a_look_at_the_schema_prepares_nothing(place: Place) -> None:
    if isinstance(place, SqlitePlace):
        place.path.touch()
    with place.open() as storage:
        backend = storage._backend
        assert isinstance(backend, migrations.MigratedBackend)
        for is_applied in (False, True):
            found = backend.on_schema(migrations.states)
            assert [state.name for state in found] == place.shipped()
            assert {state.checksum_ok for state in found} == {True if is_applied else None}
            if not is_applied:
                assert place.tables() == set()
                use(storage)


def test_without_auto_migrate_an_empty_database_is_an_error_and_stays_empty(place: Place) -> None:
    with place.open(auto_migrate=False) as storage:
        with pytest.raises(MigrationError, match="`assistly migrate`"):
            storage.queue.get(1)
        with pytest.raises(MigrationError, match="`assistly migrate`"):
            storage.ping()
        assert place.tables() == set()


def test_without_auto_migrate_a_pending_one_is_an_error_that_names_it(place: Place, files: Files) -> None:
    with place.open() as storage:
        storage.ping()
    extra = f"900_extra_{place.engine}.sql"
    files.write(extra, "CREATE TABLE extra (id integer PRIMARY KEY);")
    with place.open(auto_migrate=False) as storage, pytest.raises(MigrationError, match=extra):
        storage.ping()
    assert "extra" not in place.tables()


def test_a_failed_first_use_is_not_remembered(place: Place) -> None:
    with place.open(auto_migrate=False) as waiting:
        with pytest.raises(MigrationError):
            waiting.ping()
        with place.open() as other:
            other.ping()
        use(waiting)


def test_a_new_file_is_found_by_itself(place: Place, files: Files) -> None:
    with place.open() as storage:
        storage.ping()
    extra = f"900_extra_{place.engine}.sql"
    files.write(extra, "CREATE TABLE extra (id integer PRIMARY KEY);\n")
    files.write("901_extra_otherengine.sql", "nonsense")
    with place.open() as storage:
        assert storage.migrate() == [extra]
    assert "extra" in place.tables()
    assert place.recorded() == [*place.shipped(), extra]


def test_a_file_that_was_changed_after_it_was_applied_is_refused(place: Place, files: Files) -> None:
    with place.open() as storage:
        storage.ping()
    name = place.shipped()[0]
    files.write(name, files.read(name) + "-- harmless?\n")
    files.write(f"900_extra_{place.engine}.sql", "CREATE TABLE extra (id integer PRIMARY KEY);")
    for auto_migrate in (True, False):
        with place.open(auto_migrate=auto_migrate) as storage:
            with pytest.raises(MigrationError, match=name):
                storage.ping()
            with pytest.raises(MigrationError, match=name):
                storage.migrate()
    assert "extra" not in place.tables()


def test_line_endings_are_no_change(place: Place, files: Files) -> None:
    with place.open() as storage:
        storage.ping()
    for name in place.shipped():
        files.write(name, files.read(name).replace("\n", "\r\n"))
    with place.open() as storage:
        assert storage.migrate() == []


def test_a_database_that_is_newer_than_the_code_is_refused(place: Place, files: Files) -> None:
    extra = f"900_extra_{place.engine}.sql"
    files.write(extra, "CREATE TABLE extra (id integer PRIMARY KEY);")
    with place.open() as storage:
        storage.ping()
    files.remove(extra)
    for auto_migrate in (True, False):
        with place.open(auto_migrate=auto_migrate) as storage, pytest.raises(MigrationError, match=extra):
            storage.queue.schedule("x", "Hello")
    assert place.query("SELECT count(*) FROM assistly_queue_jobs") == [(0,)]


def test_a_migration_that_fails_leaves_nothing_behind_and_is_tried_again(place: Place, files: Files) -> None:
    good, bad = f"900_good_{place.engine}.sql", f"901_bad_{place.engine}.sql"
    files.write(good, "CREATE TABLE good (id integer PRIMARY KEY);")
    files.write(bad, "CREATE TABLE bad (id integer PRIMARY KEY);\nINSERT INTO missing VALUES (1);\n")
    with place.open() as storage:
        for _ in range(2):
            with pytest.raises(MigrationError, match=bad):
                storage.queue.schedule("x", "Hello")
            assert place.recorded() == [*place.shipped(), good]
            assert "good" in place.tables()
            assert "bad" not in place.tables()
        files.write(bad, "CREATE TABLE bad (id integer PRIMARY KEY);\n")
        use(storage)
    assert place.recorded() == [*place.shipped(), good, bad]
    assert "bad" in place.tables()


def test_a_finished_schema_is_opened_without_writing(place: Place) -> None:
    with place.open() as storage:
        storage.snapshots.put("queue", 1)
    for auto_migrate in (True, False):
        with place.others_may_only_read(), place.open(auto_migrate=auto_migrate) as storage:
            snapshot = storage.snapshots.get("queue")
            assert snapshot is not None
            assert snapshot.payload == 1


@pytest.fixture
def new_role(database_url: str) -> Iterator[Callable[[], str]]:
    """Makes roles that may not create anything."""
    roles: list[str] = []

    def new() -> str:
        name = f"assistly_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(database_url) as connection:
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(name))
            connection.execute(create)
        roles.append(name)
        return name

    yield new
    with psycopg.connect(database_url) as connection:
        for role in roles:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


TABLE_PRIVILEGES: Final = {
    "read": "GRANT SELECT ON ALL TABLES IN SCHEMA {}",
    "write": "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {}",
}


def grant(place: PostgresPlace, role: str, tables: Literal["read", "write"]) -> None:
    schema, to_role = sql.Identifier(place.schema), sql.SQL(" TO {}").format(sql.Identifier(role))
    for privilege in (
        sql.SQL("GRANT USAGE ON SCHEMA {}"),
        sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {}"),
        sql.SQL(TABLE_PRIVILEGES[tables]),
    ):
        place.query((privilege.format(schema) + to_role).as_string())


def test_a_role_that_may_not_create_uses_a_finished_schema(
    database_url: str, new_schema: Callable[[], str], new_role: Callable[[], str]
) -> None:
    owner = PostgresPlace(database_url, new_schema())
    with owner.open() as storage:
        assert storage.migrate()
    role = new_role()
    grant(owner, role, "write")
    url = make_conninfo(database_url, user=role, password="secret")
    for auto_migrate in (True, False):
        with PostgresPlace(url, owner.schema).open(auto_migrate=auto_migrate) as storage:
            assert storage.migrate() == []
            storage.ping()
    with PostgresPlace(url, owner.schema).open() as storage:
        use(storage)


def test_a_role_that_may_only_read_reads_and_gets_an_error_for_a_write(
    database_url: str, new_schema: Callable[[], str], new_role: Callable[[], str]
) -> None:
    owner = PostgresPlace(database_url, new_schema())
    with owner.open() as storage:
        job = storage.queue.schedule("x", "Hello")
    role = new_role()
    grant(owner, role, "read")
    with PostgresPlace(
        make_conninfo(database_url, user=role, password="secret"), owner.schema
    ).open() as storage:
        assert storage.queue.get(job.id) == job
        with pytest.raises(StorageError) as caught:
            storage.queue.remove(job.id)
        assert "secret" not in str(caught.value)
        assert storage.queue.counts()[JobStatus.SCHEDULED] == 1


def test_a_role_that_may_not_create_gets_an_error_on_an_empty_schema(
    database_url: str, new_schema: Callable[[], str], new_role: Callable[[], str]
) -> None:
    owner = PostgresPlace(database_url, new_schema())
    role = new_role()
    owner.query(f'CREATE SCHEMA IF NOT EXISTS "{owner.schema}"')
    grant(owner, role, "read")
    with PostgresPlace(
        make_conninfo(database_url, user=role, password="secret"), owner.schema
    ).open() as storage:
        with pytest.raises(StorageError, match="permission denied"):
            storage.ping()
        assert owner.tables() == set()
        with owner.open() as other:
            other.ping()
        grant(owner, role, "write")
        use(storage)


ODD_NAMES = [
    "Capital",
    "with space",
    "hyphen-ated",
    'double"quote',
    "single'quote",
    "100%s %% %(name)s",
    "dotted.name",
    "semi;colon -- comment",
    "select",
    "{t}",
    ":name",
    "back\\slash",
    "Ünïcode",
    "x" * 63,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_schema_may_have_any_name(name: str, database_url: str) -> None:
    place = PostgresPlace(database_url, name)
    drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)).as_string()
    place.query(drop)
    try:
        with place.open() as storage:
            use(storage)
            assert storage.queue.schedule("x", "again", min_gap=timedelta(minutes=1)).id == 2
        assert place.tables() >= {"assistly_queue_jobs", "assistly_migrations"}
        with place.open() as storage:
            assert storage.migrate() == []
            assert len(storage.queue.list()) == 2
    finally:
        place.query(drop)


@pytest.mark.parametrize("name", ["", "x" * 64, "nul\0", "Ü" * 32])
def test_a_name_that_no_schema_can_have_is_a_configuration_error(name: str, database_url: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="STORAGE_SCHEMA"),
        PostgresPlace(database_url, name).open() as s,
    ):
        s.ping()


def test_schemas_stand_side_by_side(database_url: str, new_schema: Callable[[], str]) -> None:
    places = [PostgresPlace(database_url, new_schema()) for _ in range(2)]
    for place in places:
        with place.open() as storage:
            use(storage)
    with places[0].open() as first, places[1].open() as second:
        first.queue.schedule("x", "only here", idempotency_key="key")
        second.queue.schedule("y", "only there", idempotency_key="key")
        assert [job.content for job in first.queue.list(after=1)] == ["only here"]
        assert [job.content for job in second.queue.list(after=1)] == ["only there"]
        assert first.lock.acquire("other", name="mine") is not None
        assert second.lock.current("mine") is None
    assert places[0].tables() == places[1].tables()


BEFORE_ATTENTION = {"sqlite": "003_lean_queue_sqlite.sql", "postgres": "005_fewer_indexes_postgres.sql"}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
JOBS_BEFORE = """
INSERT INTO assistly_queue_jobs (
    id, status, platform, content, scheduled_at, due_at, created_at, updated_at, next_retry_at, retries,
    claim, worker_id, lease_until, posted_at, dead_letter_at, dead_letter_reason, max_lateness, late_after,
    idempotency_key, metadata
) VALUES
(1, 'scheduled', 'x', 'too late', NOON[-60], NOON[-60], NOON[-90], NOON[-90], NULL, 0, 0, NULL, NULL, NULL,
    NULL, NULL, 1000000, NOON[-59], 'key', '{"a": 1}'),
(2, 'processing', 'x', 'left', NOON[-60], NOON[-60], NOON[-90], NOON[-60], NULL, 0, 1, 'w', NOON[-1], NULL,
    NULL, NULL, 90000000, NOON[30], NULL, '{}'),
(3, 'posted', 'x', 'done', NOON[-60], NOON[-60], NOON[-90], NOON[-50], NULL, 0, 1, NULL, NULL, NOON[-50],
    NULL, NULL, 1000000, NOON[-59], NULL, '{}'),
(4, 'dead_letter', 'x', 'dead', NOON[-60], NOON[-60], NOON[-90], NOON[-50], NULL, 3, 3, NULL, NULL, NULL,
    NOON[-50], 'refused', NULL, NULL, NULL, '{}'),
(5, 'retrying', 'x', 'again', NOON[-60], NOON[60], NOON[-90], NOON[-50], NOON[60], 1, 1, NULL, NULL, NULL,
    NULL, NULL, 1000000, NOON[-59], NULL, '{}'),
(6, 'processing', 'x', 'held', NOON[-60], NOON[-60], NOON[-90], NOON[-60], NULL, 0, 7, 'w', NOON[60], NULL,
    NULL, NULL, 1000000, NOON[-59], NULL, '{}'),
(9, 'posted', 'x', 'removed', NOON[-60], NOON[-60], NOON[-90], NOON[-50], NULL, 0, 1, NULL, NULL, NOON[-50],
    NULL, NULL, NULL, NULL, NULL, '{}')
"""


def at_noon(engine: str, statement: str) -> str:
    def moment(match: re.Match[str]) -> str:
        when = NOON + timedelta(seconds=int(match[1]))
        if engine == "postgres":
            return f"'{when.isoformat()}'"
        return str(int(when.timestamp()) * 1_000_000)

    return re.sub(r"NOON\[(-?\d+)\]", moment, statement)


def test_jobs_from_before_attention_are_looked_after(place: Place, files: Files) -> None:
    later = [name for name in place.shipped() if name >= BEFORE_ATTENTION[place.engine]]
    texts = {name: files.read(name) for name in later}
    for name in later:
        files.remove(name)
    with closing(place.backend()) as backend:
        backend.migrate()
    place.query(at_noon(place.engine, JOBS_BEFORE))
    if place.engine == "postgres":
        place.query("SELECT setval('assistly_queue_jobs_id_seq', 9)")
    place.query("DELETE FROM assistly_queue_jobs WHERE id = 9")
    for name, text in texts.items():
        files.write(name, text)
    with place.open() as storage:
        queue = storage.queue
        assert storage.migrate() == later
        late = queue.get(1)
        assert late is not None
        assert (late.metadata, late.idempotency_key) == ({"a": 1}, "key")
        assert late.max_lateness == timedelta(seconds=1)
        assert queue.claim_due(worker_id="v", now=NOON) == []
        statuses = {job.id: job.status for job in queue.list()}
        assert statuses == {
            1: JobStatus.DEAD_LETTER,
            2: JobStatus.RETRYING,
            3: JobStatus.POSTED,
            4: JobStatus.DEAD_LETTER,
            5: JobStatus.RETRYING,
            6: JobStatus.PROCESSING,
        }
        assert queue.schedule("x", "new", now=NOON).id == 10
        (lapsed,) = queue.rescue_expired(now=NOON + timedelta(minutes=1))
        assert (lapsed.id, lapsed.claim, lapsed.retries) == (6, 7, 1)
