"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How serious a finding is, the best first."""

    OK = "ok"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One result of a check. `mend` says how to fix it: SQL, a command, or advice."""

    verdict: Verdict
    reason: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome, with the name of its check."""

    check: str
    verdict: Verdict
    reason: str
    mend: str | None


class NotChecked(Exception):
    """A check cannot run. The message says why."""


def ok(reason: str) -> Outcome:
    """Nothing to do."""
    return Outcome(Verdict.OK, reason)


def warning(reason: str, mend: str) -> Outcome:
    """Something that works, but needs attention."""
    return Outcome(Verdict.WARNING, reason, mend)


def problem(reason: str, mend: str) -> Outcome:
    """Something that does not work, or soon will not."""
    return Outcome(Verdict.PROBLEM, reason, mend)
