"""Locks of other sessions on whole tables, which everything waits for."""

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
"""Calls of the storage wait for that long, and fail then."""


def check_locks(context: CheckContext) -> Iterable[Outcome]:
    """Whether a session keeps everybody from a table. Checks that would wait for it are not made."""
    return [_of_lock(lock) for lock in context.table_locks] or [ok("no session keeps others from a table")]


def _of_lock(lock: TableLock) -> Outcome:
    if lock.pid is None:
        return problem(
            f"a prepared transaction keeps everybody from {lock.table}",
            "see the check long-transactions, or SELECT gid FROM pg_prepared_xacts",
        )
    of_what = f" ({lock.application})" if lock.application else ""
    holds = (
        f"keeps everybody from {lock.table}"
        if lock.granted
        else f"waits for {', '.join(map(str, lock.blockers)) or 'others'} to lock {lock.table}, and others "
        "wait behind it"
    )
    kind = problem if lock.transaction_age >= LONG else warning
    return kind(
        f"the session {lock.pid} of {lock.user}{of_what} {holds}: its transaction is open for "
        f"{span(lock.transaction_age)}, its last query began {span(lock.query_age)} ago, its state is "
        f"{lock.state}",
        f"end it in its program, or with SELECT pg_terminate_backend({lock.pid})",
    )


FIRST = (Check("locks", check_locks, ENGINES),)
