"""What happened in a run, in the order in which it happened."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from assistly.storage.engine.values import Settlement
from assistly.storage.records import Job

from .scheduler import Scheduler

_LONGEST = 160


class History:
    """The calls with their answers, and other events, each with its time and thread."""

    def __init__(self) -> None:
        self._entries: list[tuple[Any, ...]] = []

    def add(
        self,
        scheduler: Scheduler,
        kind: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        answer: Any,
    ) -> None:
        """A call of the engine."""
        self._entries.append((scheduler.now, scheduler.current, kind, name, args, kwargs, answer))

    def note(self, scheduler: Scheduler, text: str) -> None:
        """Something else."""
        self._entries.append((scheduler.now, scheduler.current, text))

    def lines(self, last: int | None = None) -> list[str]:
        """The entries as text; the last ones only if there are more than `last`."""
        entries = self._entries if last is None else self._entries[-last:]
        lines = [f"… {len(self._entries) - len(entries)} earlier ones"] if len(entries) < len(self) else []
        return [*lines, *map(_line, entries)]

    def __len__(self) -> int:
        return len(self._entries)


def _line(entry: tuple[Any, ...]) -> str:
    now, thread = entry[:2]
    start = f"{now:10.3f}  {thread.process.name:<10} {thread.name.removeprefix('assistly-'):<18} "
    if len(entry) == 3:
        return f"{start}{entry[2]}"
    _, _, kind, name, args, kwargs, answer = entry
    given = [*map(shown, args), *(f"{key}={shown(value)}" for key, value in kwargs.items() if key != "token")]
    return f"{start}{kind}.{name}({', '.join(given)}) -> {shown(answer)}"


def shown(value: Any) -> str:
    """A value in short."""
    if isinstance(value, Job):
        lease = f" until {value.lease_until:%H:%M:%S.%f}" if value.lease_until else ""
        claim = f" claim {value.claim} by {value.worker_id}{lease}" if value.worker_id else ""
        begun = " begun" if value.publish_started_at else ""
        return (
            f"<job {value.id} {value.platform} {value.status} retries={value.retries} "
            f"due {value.due_at:%H:%M:%S.%f}{claim}{begun}>"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Settlement):
        final = " final" if value.final else ""
        return f"<{value.kind}{final} job {value.id} claim {value.claim} {value.error[:40]!r} at {value.at}>"
    if isinstance(value, datetime):
        return value.strftime("%H:%M:%S.%f")
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
