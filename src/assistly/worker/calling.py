"""Calling a publisher, whatever kind of function it is, and what its end means."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from assistly.storage.errors import InvalidValue
from assistly.storage.validation import optional_name

from .verdicts import Publisher, Unknown

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from assistly.storage.records import Job

_SHOWN_ERROR = 4096


class Caller:
    """Awaits what has to be awaited on one event loop, on a thread of its own unless a loop is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._owns_loop = loop is None
        self._guard = threading.Lock()

    def call(self, publisher: Publisher, job: Job) -> object:
        result = publisher(job)
        return self._awaited(result) if inspect.isawaitable(result) else result

    def close(self) -> None:
        if self._owns_loop and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _awaited(self, result: Awaitable[object]) -> object:
        import asyncio

        future = asyncio.run_coroutine_threadsafe(_guarded(result), self._running_loop())
        try:
            return future.result()
        except CancelledError as error:
            raise Unknown("the publisher was cancelled") from error

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run_loop, args=(self._loop,), name="assistly-worker-loop", daemon=True
                ).start()
            return self._loop


async def _guarded(result: Awaitable[object]) -> object:
    """KeyboardInterrupt and SystemExit would end the loop, and with it all the other publishers."""
    try:
        return await result
    except (KeyboardInterrupt, SystemExit) as error:
        raise Unknown(f"the publisher raised {type(error).__name__}") from error


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _cancel_all() -> None:
    """What is abandoned must end, or its heartbeat would go on for ever."""
    import asyncio

    abandoned = asyncio.all_tasks() - {asyncio.current_task()}
    for task in abandoned:
        task.cancel()
    await asyncio.gather(*abandoned, return_exceptions=True)


def error_text(error: BaseException, *, named: bool) -> str:
    """What can be stored of an exception: one that cannot even be turned into text included."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a publisher's exception may do what it likes
        message = ""
    name = type(error).__name__
    text = (f"{name}: {message}" if message else name) if named else message or name
    return text[:_SHOWN_ERROR].replace("\0", "\ufffd").encode(errors="replace").decode()


def usable_remote_id(value: object) -> tuple[str | None, str | None]:
    """The remote id that can be stored, and what is wrong with the value: the job is posted anyhow."""
    try:
        return optional_name("remote_id", value), None
    except InvalidValue as error:
        return None, str(error)
