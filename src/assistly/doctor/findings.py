"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context import CheckContext


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


@dataclass(frozen=True, slots=True)
class Check:
    """A check. `engines` are those that it is for; None: all. `run` may raise NotChecked."""

    name: str
    run: Callable[[CheckContext], Iterable[Outcome]]
    engines: tuple[str, ...] | None = None

    def is_for(self, engine: str) -> bool:
        """Whether it can be made on the engine."""
        return self.engines is None or engine in self.engines


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
