"""A storage in FastAPI: opened and closed with the application, with a transaction for each request.

It needs the extra `fastapi`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Unpack

from assistly.storage.aio import AsyncStorage, open_async_storage
from assistly.storage.clock import Clock
from assistly.storage.errors import ConfigurationError
from assistly.storage.keywords import SettingsKeywords
from assistly.worker import AsyncWorker, Publisher, WorkerOptions

from .requirements import framework

with framework("FastAPI", "fastapi"):
    from fastapi import Depends, FastAPI
    from fastapi.requests import HTTPConnection

__all__ = ["StorageDep", "TransactionDep", "get_storage", "get_transaction", "storage_lifespan"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]

_STATE = "assistly_storage"

logger = logging.getLogger("assistly.integrations.fastapi")


def storage_lifespan(
    publishers: Mapping[str, Publisher] | None = None,
    *,
    worker: WorkerOptions | None = None,
    clock: Clock | None = None,
    auto_prune: bool = True,
    **settings: Unpack[SettingsKeywords],
) -> Lifespan:
    """Return a lifespan that opens the storage, and closes it at shutdown: `FastAPI(lifespan=…)`.

    The other keywords are those of `open_async_storage`. With `publishers`, an AsyncWorker on the server's
    event loop publishes due jobs meanwhile; `worker` has its options. It leaves signals to the server. At
    shutdown it claims nothing more, and jobs that are being published get its grace time (30 seconds) to
    finish. If it fails, that is logged, requests are served without it, and shutdown raises the error.

    In a lifespan of your own: `async with storage_lifespan(…)(app): yield`.
    """
    if worker is not None and not publishers:
        raise ConfigurationError("worker has options, and there are no publishers: pass both, or neither")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with open_async_storage(clock=clock, auto_prune=auto_prune, **settings) as storage:
            setattr(app.state, _STATE, storage)
            try:
                async with _working(storage, publishers, worker or {}):
                    yield {_STATE: storage}
            finally:
                delattr(app.state, _STATE)

    return lifespan


@asynccontextmanager
async def _working(
    storage: AsyncStorage, publishers: Mapping[str, Publisher] | None, options: WorkerOptions
) -> AsyncIterator[None]:
    if not publishers:
        yield
        return
    worker = AsyncWorker(storage, publishers, **options)
    running = asyncio.create_task(worker.run())
    running.add_done_callback(_log_failure)
    try:
        yield
    finally:
        worker.stop()
        await running


def _log_failure(running: asyncio.Task[None]) -> None:
    error = None if running.cancelled() else running.exception()
    if error is not None:
        logger.error("the worker has failed, and publishes nothing more", exc_info=error)


def get_storage(connection: HTTPConnection) -> AsyncStorage:
    """Return the storage of the application: a dependency, and the one that tests override."""
    storage = getattr(connection.state, _STATE, None) or getattr(connection.app.state, _STATE, None)
    if storage is None:
        raise ConfigurationError(
            "the storage is not open: pass FastAPI(lifespan=storage_lifespan(…)); in tests, use "
            "`with TestClient(app)`, or override the dependency get_storage"
        )
    opened: AsyncStorage = storage
    return opened


StorageDep = Annotated[AsyncStorage, Depends(get_storage)]
"""The storage, open until the server shuts down. In background tasks and streams, too."""


async def get_transaction(storage: StorageDep) -> AsyncIterator[AsyncStorage]:
    """Yield a transaction. Depend on `TransactionDep`, which commits it at the right time."""
    async with storage.transaction() as tx:
        yield tx


TransactionDep = Annotated[AsyncStorage, Depends(get_transaction, scope="function")]
"""A transaction, one for the request. It is committed when the function has returned, before the response is
sent, and undone if the function raises, HTTPException included, or if the response cannot be made."""
