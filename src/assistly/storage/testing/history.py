"""Records what the racers of a test called and were answered, and when.

`RecordedStorage` passes calls on to a storage, and notes them. `history_checks.check` says whether a history
can be explained by calls that took effect one after the other, each at a moment between call and answer.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..clock import system_clock
from ..storage import Storage

STORES = ("queue", "sessions", "approvals", "idempotency", "nonces", "lock", "events")

UNANSWERED = 2**63
"""The time of an answer that never came."""


@dataclass(frozen=True)
class RecordedCall:
    """One call. Times are nanoseconds of the machine's monotonic clock, which all its processes share."""

    caller: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    invoked: int
    returned: int
    answer: Any
    """What was returned or raised; None if nothing was."""
    now: datetime
    """The storage's time at the call."""

    @property
    def is_answered(self) -> bool:
        """Whether an answer came. If not, the call may have taken effect or not."""
        return self.returned != UNANSWERED

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        end = f"{self.returned / 1e9:.6f}" if self.is_answered else "never"
        return (
            f"{self.invoked / 1e9:.6f} to {end}  {self.caller}: {self.method}({', '.join(given)})\n"
            f"    -> {self.answer!r}"
        )


@dataclass
class Recorder:
    """Keeps the calls of one caller."""

    caller: str
    calls: list[RecordedCall] = field(default_factory=list)

    def make(self, call: RecordedCall, function: Callable[[], Any]) -> Any:
        """Call the function, and record what it returns or raises."""
        call = replace(call, invoked=time.monotonic_ns())
        try:
            answer = function()
        except Exception as error:
            self.calls.append(replace(call, returned=time.monotonic_ns(), answer=error))
            raise
        self.calls.append(replace(call, returned=time.monotonic_ns(), answer=answer))
        return answer


class RecordedStorage:
    """A storage whose stores record their calls. Transactions and other attributes are those of `storage`."""

    def __init__(self, storage: Storage, recorder: Recorder) -> None:
        self._storage = storage
        for name in STORES:
            setattr(self, name, _RecordedStore(storage, name, recorder))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def recorded(storage: Storage, recorder: Recorder) -> Storage:
    """The same storage, recorded."""
    return cast("Storage", RecordedStorage(storage, recorder))


class _RecordedStore:
    def __init__(self, storage: Storage, name: str, recorder: Recorder) -> None:
        self._clock = storage._context.clock or system_clock
        self._store = getattr(storage, name)
        self._name = name
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        special = getattr(self, f"_make_{self._name}_{name}", None)
        call: Any = partial(self._make, name, method) if special is None else partial(special, method)
        self.__dict__[name] = call
        return call

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedCall:
        now = kwargs.get("now") or self._clock()
        return RecordedCall(
            self._recorder.caller, f"{self._name}.{name}", args, kwargs, 0, UNANSWERED, None, now
        )

    def _make(self, name: str, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        args = tuple([*arg] if isinstance(arg, Iterator) else arg for arg in args)
        return self._recorder.make(self._call(name, args, kwargs), partial(method, *args, **kwargs))

    def _make_events_read_after(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Readers poll. A page without events says nothing, so it is not kept."""
        page = self._make("read_after", method, *args, **kwargs)
        if not page:
            self._recorder.calls.pop()
        return page

    def _make_sessions_update(
        self, method: Callable[..., Any], /, user_id: str, change: Callable[[Any], Any], **kwargs: Any
    ) -> Any:
        """Record what the function was given and returned: itself it cannot be sent to other processes."""
        seen: dict[str, Any] = {}

        def watched(data: Any) -> Any:
            seen["before"] = pickle.loads(pickle.dumps(data))  # noqa: S301 - a copy
            seen["after"] = change(data)
            return seen["after"]

        call = self._call("update", (user_id, seen), kwargs)
        return self._recorder.make(call, partial(method, user_id, watched, **kwargs))

    def _make_idempotency_run_once(
        self, method: Callable[..., Any], /, key: str, function: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """When the function began and ended, if it was run: the key is claimed before, completed after it."""
        times: dict[str, int] = {}

        def watched() -> Any:
            times["began"] = time.monotonic_ns()
            value = function()
            times["ended"] = time.monotonic_ns()
            return value

        call = self._call("run_once", (key, times), kwargs)
        return self._recorder.make(call, partial(method, key, watched, **kwargs))


def write_history(calls: Iterable[RecordedCall]) -> Path:
    """Write the calls into a new file in the folder for temporary files, by the time of their beginning."""
    handle, name = tempfile.mkstemp(prefix="assistly-history-", suffix=".txt")
    with os.fdopen(handle, "w") as file:
        for call in sorted(calls, key=lambda call: call.invoked):
            file.write(f"{call}\n")
    return Path(name)
