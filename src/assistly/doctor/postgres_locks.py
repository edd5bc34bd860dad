"""Locks of other sessions on whole tables, which block everything else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from assistly.views.text import span

from .checks import Check
from .context import CheckContext
from .findings import Outcome, ok, problem, warning
from .table_locks import TableLock

ENGINES = ("postgres",)

LONG = timedelta(seconds=10)
"""Storage calls wait for this long, and then fail."""


def check_locks(context: CheckContext) -> Iterable[Outcome]:
    """Whether a session blocks a table. Checks that would wait for it do not run."""
    return [_of_lock(lock) for lock in context.table_locks] or [ok("no session blocks a table")]


def _of_lock(lock: TableLock) -> Outcome:
    if lock.pid is None:
        return problem(
            f"a prepared transaction blocks {lock.table}",
            "see the check long-transactions, or SELECT gid FROM pg_prepared_xacts",
        )
    of_what = f" ({lock.application})" if lock.application else ""
    holds = (
        f"blocks {lock.table}"
        if lock.granted
        else f"waits for {', '.join(map(str, lock.blockers)) or 'others'} to lock {lock.table}, and others "
        "queue behind it"
    )
    kind = problem if lock.transaction_age >= LONG else warning
    return kind(
        f"session {lock.pid} of {lock.user}{of_what} {holds}: its transaction has been open for "
        f"{span(lock.transaction_age)}, its last query started {span(lock.query_age)} ago, its state is "
        f"{lock.state}",
        f"end it in its program, or with SELECT pg_terminate_backend({lock.pid})",
    )


FIRST = (Check("locks", check_locks, ENGINES),)
