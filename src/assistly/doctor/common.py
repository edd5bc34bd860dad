"""Checks that are the same on every engine: they call the storage as applications do."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from importlib.metadata import version
from shlex import quote
from typing import TYPE_CHECKING

from assistly.storage.errors import MigrationError
from assistly.storage.unfinished import unfinished_copy
from assistly.views.jobs import GRACE, SEEN
from assistly.views.text import span

from . import levels
from .checks import Check
from .context import CheckContext
from .findings import Outcome, ok, problem, warning

if TYPE_CHECKING:
    from assistly.storage import Job
    from assistly.storage.engines.sql.migrations import Migration

LATE = timedelta(hours=1)
"""A job that has been due for so long is a problem."""

_PAGE = 1000


def check_unfinished_copy(context: CheckContext) -> Iterable[Outcome]:
    """Whether an unfinished copy into this storage exists."""
    source = unfinished_copy(context.opened_backend())
    if source is None:
        return [ok("no copy into this storage is unfinished")]
    return [
        problem(
            f"a copy of {source} into this storage is not finished: work done here is repeated, or lost when "
            "the copy continues",
            "run the same command again to finish the copy (assistly copy SOURCE TARGET), or use the source",
        )
    ]


def check_version(context: CheckContext) -> Iterable[Outcome]:
    """Whether the versions of the engine are supported."""
    here = f"assistly {version('assistly')}, Python {platform.python_version()}"
    if context.engine == "sqlite":
        from assistly.storage.engines.sqlite.driver import sqlite3

        context.file_connection()
        return [ok(f"{here}, SQLite {sqlite3.sqlite_version} ({sqlite3.__name__})")]
    if context.engine == "postgres":
        return [_of_server(here, *context.server().rows(SERVER_VERSION)[0])]
    context.storage()
    return [ok(f"{here}, engine {context.engine}")]


OLDEST_SERVER = 15
SERVER_VERSION = """
SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')
"""


def _of_server(here: str, shown: str, number: str) -> Outcome:
    reason = f"{here}, PostgreSQL {shown}, psycopg {version('psycopg')}"
    if int(number) // 10_000 < OLDEST_SERVER:
        return problem(reason, f"upgrade the server: PostgreSQL {OLDEST_SERVER} or later is needed")
    return ok(reason)


def check_migrations(context: CheckContext) -> Iterable[Outcome]:
    """Whether the database has exactly the migrations of this version."""
    from assistly.storage.engines.sql.migrations import NewerDatabase, discover, pending

    known = discover(context.engine)
    try:
        missing = pending(known, context.applied())
    except NewerDatabase as error:
        return [problem(str(error), "upgrade assistly")]
    except MigrationError as error:
        return [problem(str(error), "reinstall this version of assistly")]
    if missing:
        return [*_of_missing(context, missing, levels.unrecorded(context, known, context.applied()))]
    return [ok(f"all {len(known)} are applied, up to {known[-1].name}")]


def _of_missing(
    context: CheckContext, missing: Sequence[Migration], unrecorded: Sequence[Migration]
) -> Iterator[Outcome]:
    if unrecorded:
        yield problem(
            f"the database has no record of the migrations {_names(unrecorded)}, although the tables "
            "show that they were applied. `assistly migrate` would try to apply them again",
            ";\n".join(context.record(each) for each in unrecorded),
        )
    pending = [each for each in missing if each not in unrecorded]
    if pending:
        yield problem(f"the database lacks the migrations {_names(pending)}", "assistly migrate")


def _names(migrations: Iterable[Migration]) -> str:
    return ", ".join(each.name for each in migrations)


def check_expired_leases(context: CheckContext) -> Iterable[Outcome]:
    """Whether workers reclaim the jobs of workers that died."""
    ages = [
        context.now - job.lease_until
        for job in _of_status(context, "processing")
        if job.lease_until is not None and job.lease_until <= context.now
    ]
    if not ages:
        return [ok("no lease has expired")]
    oldest = max(ages)
    reason = f"expired leases: {len(ages)}, the first {span(oldest)} ago"
    if oldest < SEEN:
        return [
            warning(reason, "nothing: the next claim of a worker reclaims the jobs, within about a minute")
        ]
    return [
        problem(
            f"{reason}; no worker reclaims the jobs",
            "start a worker (assistly worker), or call storage.queue.rescue_expired()",
        )
    ]


def check_platforms(context: CheckContext) -> Iterable[Outcome]:
    """Whether each platform with due jobs has a worker.

    Workers do not register their platforms. A platform counts as served if nothing has been due there for a
    minute, or if stored data shows a worker: see `assistly.views.jobs.worker_seen`.
    """
    from assistly.views.status import due_text

    states = [state for state in context.status.platforms if state.worker_seen is False]
    if not states:
        return [ok("every platform with due jobs has a worker")]
    return [
        problem(
            f"no worker was seen on {state.name}, where {due_text(state, context.now)}",
            f"assistly worker --publish {quote(state.name)}=PUBLISHER",
        )
        for state in states
    ]


def check_oldest_due(context: CheckContext) -> Iterable[Outcome]:
    """Whether due jobs are published in time. Those of paused platforms do not count."""
    waiting = [
        (state.oldest_due_at, state.name)
        for state in context.status.platforms
        if state.oldest_due_at is not None and not state.paused
    ]
    if not waiting:
        return [ok("no job is due on a platform that is not paused")]
    due_at, name = min(waiting)
    age = context.now - due_at
    reason = f"the oldest due job has waited {span(age)}, on {name}"
    if age < GRACE:
        return [ok(reason)]
    mend = (
        f"assistly jobs list --platform {quote(name)} --due-within 0s shows it; assistly why ID explains it"
    )
    return [(problem if age >= LATE else warning)(reason, mend)]


def check_unknown_outcomes(context: CheckContext) -> Iterable[Outcome]:
    """Whether there are unknown outcomes, which a person has to resolve."""
    count = 0
    first: Job | None = None
    for job in _of_status(context, "dead_letter"):
        if job.outcome_unknown:
            count += 1
            first = first or job
    if first is None:
        return [ok("no outcome is unknown")]
    return [
        warning(
            f"jobs with an unknown outcome: {count:,}, the first is {first.id} on {first.platform}",
            "assistly status lists them; look at the platform, then assistly jobs resolve ID --posted or "
            "--not-posted",
        )
    ]


def _of_status(context: CheckContext, status: str) -> Iterator[Job]:
    from assistly.views.status import of_status

    return of_status(context.storage(), status)


SQL_ENGINES = ("sqlite", "postgres")
UNFINISHED = (Check("unfinished-copy", check_unfinished_copy),)
FIRST = (
    Check("version", check_version),
    Check("migrations", check_migrations, SQL_ENGINES),
)
CHECKS = (
    Check("expired-leases", check_expired_leases),
    Check("platforms", check_platforms),
    Check("oldest-due", check_oldest_due),
    Check("unknown-outcomes", check_unknown_outcomes),
)
