"""A storage for FastAPI: opened and closed with the application, with a transaction per request.

Needs the extra `fastapi`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Unpack, cast

from assistly.storage import AsyncStorage, ConfigurationError, Storage, open_async_storage
from assistly.storage.clock import Clock
from assistly.storage.keywords import SettingsKeywords
from assistly.worker import Publisher, WorkerOptions

from .endpoints import refuse_plain_function, refuse_websocket
from .publishing import publishing
from .requirements import async_storage, framework

with framework("FastAPI", "fastapi"):
    from fastapi import Depends, FastAPI
    from fastapi.requests import HTTPConnection

__all__ = ["StorageDep", "SyncStorageDep", "TransactionDep", "get_storage", "storage_lifespan"]

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

    Other keyword arguments are those of `open_async_storage`. With `publishers`, an AsyncWorker publishes due
    jobs on the server's event loop; `worker` has its options. It leaves signals to the server. At shutdown it
    claims nothing new, and waits for jobs that are being published, at most its `grace` (30 seconds). If the
    worker fails, that is logged, `app.state.assistly_worker.health` says so, requests are still served, and
    shutdown raises the error.

    In your own lifespan: `async with storage_lifespan(…)(app) as state: yield state`.
    """
    if worker is not None and not publishers:
        raise ConfigurationError("worker has options, but there are no publishers: pass both or neither")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with open_async_storage(clock=clock, auto_prune=auto_prune, **settings) as storage:
            try:
                async with publishing(storage, publishers, worker or {}, logger) as running:
                    app.state.assistly_storage, app.state.assistly_worker = storage, running
                    yield {_STATE: storage}
            finally:
                app.state.assistly_storage = app.state.assistly_worker = None

    return lifespan


async def get_storage(connection: HTTPConnection) -> AsyncStorage:
    """Return the storage of the application: a dependency, which tests can override."""
    # A mounted application has its own, or the one that the application around it yields to the server.
    storage = getattr(connection.app.state, _STATE, None) or getattr(connection.state, _STATE, None)
    if storage is None:
        raise ConfigurationError(
            "the storage is not open: pass FastAPI(lifespan=storage_lifespan(…)); in tests, use "
            "`with TestClient(app)`, or override the dependency get_storage"
        )
    return cast("AsyncStorage", storage)


async def _checked(storage: Annotated[AsyncStorage, Depends(get_storage)]) -> AsyncStorage:
    return async_storage(storage)  # tests override get_storage


_Found = Annotated[AsyncStorage, Depends(_checked)]


async def _storage(connection: HTTPConnection, storage: _Found) -> AsyncStorage:
    refuse_plain_function(connection.scope, _storage, "StorageDep")
    return storage


StorageDep = Annotated[AsyncStorage, Depends(_storage)]
"""The storage, open until the server shuts down. In background tasks and streams, too."""


async def _sync_storage(storage: _Found) -> Storage:
    return storage._storage  # noqa: SLF001 - functions that are not async run on threads of their own


SyncStorageDep = Annotated[Storage, Depends(_sync_storage)]
"""The same storage for functions that are plain `def`, which FastAPI runs in threads."""


async def _transaction(connection: HTTPConnection, storage: _Found) -> AsyncIterator[AsyncStorage]:
    refuse_websocket(connection.scope)
    refuse_plain_function(connection.scope, _transaction, "TransactionDep")
    async with storage.transaction() as tx:
        yield tx


TransactionDep = Annotated[AsyncStorage, Depends(_transaction, scope="function")]
"""One transaction per request. It is committed when the function returns, before the response is sent. It is
rolled back if the function raises (HTTPException included), or if the response cannot be created."""
