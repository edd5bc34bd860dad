"""The health of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage.records import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage.storage import Storage

# A step of a thread makes fewer storage calls than this.
_CALLS_OF_A_STEP = 10
# Seconds. Engines may set a shorter limit, but connecting has its own limits.
_LEAST_LIMIT = 30.0


@record
class WorkerHealth:
    """The health of a worker.

    `alive` is False if only a restart helps: the worker has ended with an error, or a thread has been in one
    step for longer than the time limits of its calls allow. It does not depend on the availability of the
    storage. `ready` is True while the worker runs, was not told to stop, and its claims do not fail. `why`
    says what is wrong.
    """

    alive: bool
    ready: bool
    why: list[str]


class Progress:
    """How long a thread has been in its current step."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: float | None = None

    def step(self) -> None:
        """Note that a step begins in which all calls have time limits."""
        self._since = self._monotonic()

    def rest(self) -> None:
        """Note that the thread waits for work, or does something that has no time limit."""
        self._since = None

    @property
    def seconds(self) -> float:
        """How long the step has taken so far; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else self._monotonic() - since


def no_step() -> None:
    """Used instead of `Progress.step` where progress is not tracked."""


def longest_step(storage: Storage, poll: float) -> float:
    """The seconds after which a thread that is still in one step counts as stuck."""
    limit: float = getattr(storage._backend, "call_limit", _LEAST_LIMIT)  # noqa: SLF001
    return _CALLS_OF_A_STEP * max(limit, _LEAST_LIMIT) + poll
