"""Runs the checks in order, and collects their findings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from assistly.storage.errors import (
    InvalidValue,
    MigrationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
)
from assistly.storage.factory import storage_place
from assistly.storage.settings import load_settings

from . import common, postgres, postgres_connections, postgres_locks, settings, sqlite, tables
from .checks import Check
from .context import CheckContext, NoDatabase
from .findings import Finding, NotChecked, Outcome, Verdict, ok, problem

CONNECTION = "connection"

CHECKS = (
    *common.UNFINISHED,
    *sqlite.FIRST,
    *common.FIRST[:1],
    *postgres_locks.FIRST,
    *common.FIRST[1:],
    *tables.CHECKS,
    *common.CHECKS,
    *postgres.CHECKS,
    *postgres_connections.CHECKS,
    *sqlite.CHECKS,
)
NAMES = (settings.NAME, CONNECTION, *dict.fromkeys(check.name for check in CHECKS))
"""The names of all checks, in the order in which they run."""


def names_for(engine: str) -> list[str]:
    """The names of the checks for an engine."""
    fitting = {check.name for check in CHECKS if check.is_for(engine)}
    return [name for name in NAMES if name in fitting or name in (settings.NAME, CONNECTION)]


@dataclass(frozen=True, slots=True)
class Report:
    """The findings. `place` is the storage, without a password; None if the settings are not valid.

    `verdict` is the worst one. `unreachable`: the storage could not be reached, or no longer.
    """

    place: str | None
    verdict: Verdict
    unreachable: bool
    findings: list[Finding]


def run(only: Collection[str] = (), *, owns_process: bool = False) -> Report:
    """Run the checks with these names (default: all) on the storage that the environment configures.

    It creates no database and applies no migration. Errors become findings. `owns_process`: only this package
    runs in the process. The call blocks: with an event loop, run it on a thread. Raises InvalidValue for an
    unknown name.
    """
    if unknown := [name for name in only if name not in NAMES]:
        raise InvalidValue(f"no check is named {', '.join(unknown)}; the checks are {', '.join(NAMES)}")
    try:
        found = load_settings()
        place = storage_place(found)
    except StorageError as error:
        complaint = problem(_line(error), "correct the variable, in the environment or in .env")
        others = [name for name in only or NAMES if name != settings.NAME]
        left = [_not_checked(name, "the settings are wrong") for name in others]
        return _report(None, [_finding(settings.NAME, complaint), *left], unreachable=False)
    with CheckContext(found, owns_process=owns_process) as context:
        run = _Run(context, set(only) or {*names_for(found.engine)})
        findings = [*run.findings()]
    return _report(place, findings, unreachable=run.unreachable)


class _Run:
    def __init__(self, context: CheckContext, wanted: set[str]) -> None:
        self._context = context
        self._wanted = wanted
        self.unreachable = False

    def findings(self) -> Iterator[Finding]:
        if settings.NAME in self._wanted:
            for outcome in settings.check(self._context.settings):
                yield _finding(settings.NAME, outcome)
        connection = self._connect()
        if CONNECTION in self._wanted or connection.verdict is not Verdict.OK:
            yield connection
        for name in NAMES:
            if name in self._wanted and name not in (settings.NAME, CONNECTION):
                yield from self._of(name)

    def _of(self, name: str) -> Iterator[Finding]:
        engine = self._context.engine
        checks = [check for check in CHECKS if check.name == name]
        check = next((check for check in checks if check.is_for(engine)), None)
        if check is None:
            engines = " and ".join(each for check in checks for each in check.engines or ())
            yield _not_checked(name, f"this check is for {engines}, and the engine is {engine}")
        else:
            yield from (_finding(name, outcome) for outcome in self._outcomes(check))

    def _connect(self) -> Finding:
        try:
            self._context.connect()
        except StorageError as error:
            self._note(error)
            return _finding(CONNECTION, problem(_line(error), _mend_of(error, self._context.engine)))
        except NotChecked as reason:
            return _finding(CONNECTION, problem(str(reason), "assistly migrate"))
        return _finding(CONNECTION, ok("the storage answers"))

    def _outcomes(self, check: Check) -> list[Outcome]:
        try:
            return [*check.run(self._context)]
        except NotChecked as reason:
            return [Outcome(Verdict.NOT_CHECKED, str(reason))]
        except MigrationError as error:
            return [Outcome(Verdict.NOT_CHECKED, _line(error))]
        except OSError as error:
            return [
                Outcome(Verdict.NOT_CHECKED, f"the file system refused access: {error.strerror or error}")
            ]
        except StorageError as error:
            self._note(error)
            return [problem(f"the check failed: {_line(error)}", "first fix what the other checks find")]
        finally:
            self._context.recover()

    def _note(self, error: StorageError) -> None:
        self.unreachable |= isinstance(error, StorageUnavailable | OutcomeUnknown)


def _not_checked(check: str, reason: str) -> Finding:
    return Finding(check, Verdict.NOT_CHECKED, reason, None)


def _finding(check: str, outcome: Outcome) -> Finding:
    return Finding(check, outcome.verdict, outcome.reason, outcome.mend)


def _report(place: str | None, findings: list[Finding], *, unreachable: bool) -> Report:
    order = list(Verdict)
    worst = max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)
    return Report(place, worst, unreachable, findings)


def _line(error: StorageError) -> str:
    return " ".join(str(error).split())


def _mend_of(error: StorageError, engine: str) -> str:
    if isinstance(error, StorageUnavailable) and engine == "sqlite":
        return _mend_of_file(error)
    if isinstance(error, StorageUnavailable):
        return "check that the server runs and is reachable, and check the settings with `assistly config`"
    if isinstance(error, NoDatabase):
        return "if this is the right file (SQLITE_PATH), create it with assistly migrate"
    return "check the settings with `assistly config`"


def _mend_of_file(error: StorageUnavailable) -> str:
    from assistly.storage.engines.sqlite.errors import is_busy

    if is_busy(error):
        return "another process uses the file: wait until it has finished, or stop it"
    return "check the permissions of the file and its folder, the disk, and SQLITE_PATH"
