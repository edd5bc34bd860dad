"""A file that worker processes append their calls on the queue to, also those that are killed.

The processes load a copy of this module, so it imports little.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assistly.storage.testing.history import RecordedCall

_METHODS = {
    "sweep_and_claim": "claim_due",
    **{name: name for name in ("begin_publish", "begin_publish_many", "settle", "rescue_expired")},
}
"""What a worker calls, and what it is recorded as."""


def record_queue(path: str) -> None:
    """Record the calls that this process makes on queues from now on: once before each, once after it."""
    from assistly.storage.stores.queue import Queue

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    numbers, mutex = count(), threading.Lock()

    def recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(queue: Any, *args: Any, **kwargs: Any) -> Any:
            args = tuple([*arg] if isinstance(arg, Iterator) else arg for arg in args)
            with mutex:
                number = next(numbers)
            made = (
                os.getpid(),
                number,
                f"queue.{name}",
                args,
                kwargs,
                datetime.now(UTC),
                time.monotonic_ns(),
            )
            write(made)
            try:
                answer = method(queue, *args, **kwargs)
            except Exception as error:
                write((*made, time.monotonic_ns(), error))
                raise
            write((*made, time.monotonic_ns(), answer.jobs if name == "claim_due" else answer))
            return answer

        return call

    def write(entry: tuple[Any, ...]) -> None:
        data = pickle.dumps(entry)
        os.write(file, len(data).to_bytes(4, "big") + data)

    for method, name in _METHODS.items():
        setattr(Queue, method, recorded(name, getattr(Queue, method)))


def read_calls(path: Path) -> list[RecordedCall]:
    """All calls in the file, answered or not."""
    from assistly.storage.testing.history import UNANSWERED, RecordedCall

    data = path.read_bytes()
    calls: dict[tuple[int, int], RecordedCall] = {}
    place = 0
    while place + 4 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        entry = data[place + 4 : place + 4 + length]
        if len(entry) < length:
            break  # the process was killed while it wrote
        process, number, method, args, kwargs, now, invoked, *end = pickle.loads(entry)
        returned, answer = end or (UNANSWERED, None)
        calls[process, number] = RecordedCall(
            f"process {process}", method, args, kwargs, invoked, returned, answer, now
        )
        place += 4 + length
    return [*calls.values()]
