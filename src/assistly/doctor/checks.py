"""The type of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .context import CheckContext
from .findings import Outcome


@dataclass(frozen=True, slots=True)
class Check:
    """A check. `engines`: those that it applies to; None: all. `run` may raise NotChecked."""

    name: str
    run: Callable[[CheckContext], Iterable[Outcome]]
    engines: tuple[str, ...] | None = None

    def is_for(self, engine: str) -> bool:
        """Whether the check applies to the engine."""
        return self.engines is None or engine in self.engines
