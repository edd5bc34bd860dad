"""The tables that are locked while nobody may write."""

from __future__ import annotations

import random
import time

from psycopg.errors import DeadlockDetected, LockNotAvailable

from .dialect import PostgresDialect
from .executor import PostgresExecutor
from .transaction import begin, commit, roll_back

_TABLES = (
    *("documents", "sessions", "approvals", "idempotency", "nonces", "metrics", "worker_lock", "store"),
    *("events", "queue_jobs", "retention"),
)
_SECONDS = 10.0
_MILLISECONDS = (20, 100, 400)
"""How long attempts wait for each table: less than a second, after which a server looks for deadlocks."""


def lock_tables(executor: PostgresExecutor, dialect: PostgresDialect) -> None:
    """Lock all tables against writers until the end of the transaction.

    A writer that has written to one table may wait for another one that is locked already. The server would
    end one of the two, so this lets go and tries again instead, in another order, for up to 10 seconds.
    Call it inside a transaction. Later statements wait for locks as long as before.
    """
    until = time.monotonic() + _SECONDS
    tables = [f"{dialect.quoted_schema}.assistly_{name}" for name in _TABLES]
    ((before,),) = executor.rows("SELECT pg_catalog.current_setting('lock_timeout')")
    while True:
        executor.limit.begin()
        begin(executor)
        try:
            executor.command(f"SET LOCAL lock_timeout = '{random.choice(_MILLISECONDS)}ms'")
            executor.command(f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE")
            executor.command(f"SET LOCAL lock_timeout = '{before}'")  # the end of a savepoint keeps a value
        except (LockNotAvailable, DeadlockDetected):
            roll_back(executor, False)
            if time.monotonic() > until:
                raise
            time.sleep(random.uniform(0, 0.02))
            random.shuffle(tables)
        else:
            commit(executor, False)
            return
