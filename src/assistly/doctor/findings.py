"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is, the best first."""

    OK = "ok"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check says about one thing. `mend` is what to do about it: SQL, a command, or words."""

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
    """A check cannot be made. The message says why."""


def ok(reason: str) -> Outcome:
    """Nothing to do."""
    return Outcome(Verdict.OK, reason)


def warning(reason: str, mend: str) -> Outcome:
    """Something that works, and that somebody should look at."""
    return Outcome(Verdict.WARNING, reason, mend)


def problem(reason: str, mend: str) -> Outcome:
    """Something that does not work, or will not for long."""
    return Outcome(Verdict.PROBLEM, reason, mend)
