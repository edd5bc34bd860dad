"""A transaction as a dependency of a web framework: entered, used and left on whatever threads it has."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio.to_thread
import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from assistly.storage import AsyncStorage, Storage, StorageBackend, StorageUnavailable
from waiting import until

REQUESTS = 40
FAILS = {number for number in range(REQUESTS) if number % 3 == 0}


class Broken(Exception):
    """Raised on purpose, after the request has written."""


def application(storage: Storage, threads: int = 100) -> FastAPI:
    """Its transactions need a thread for each step, which those that wait for one must leave free."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        yield

    app = FastAPI(lifespan=lifespan)

    def tx() -> Iterator[Storage]:
        with storage.transaction() as t:
            yield t

    def nested(outer: Storage = Depends(tx)) -> Iterator[Storage]:  # noqa: B008 - FastAPI's way
        with outer.transaction() as t:
            yield t

    @app.exception_handler(Broken)
    def broken(request: Request, error: Broken) -> JSONResponse:
        return JSONResponse({"detail": "broken"}, status_code=500)

    @app.exception_handler(StorageUnavailable)
    def unavailable(request: Request, error: StorageUnavailable) -> JSONResponse:
        return JSONResponse({"detail": "unavailable"}, status_code=503)

    @app.post("/orders/{number}")
    def order(number: int, tx: Storage = Depends(tx)) -> int:  # noqa: B008
        tx.nonces.register(f"order-{number}")
        job = tx.queue.schedule("orders", f"order-{number}")
        tx.sessions.update("orders", lambda count: count + 1, default=0)
        fail(number)
        return job.id

    @app.post("/nested/{number}")
    def nested_order(number: int, tx: Storage = Depends(nested)) -> int:  # noqa: B008
        job = tx.queue.schedule("nested", f"nested-{number}")
        fail(number)
        return job.id

    @app.post("/strangers/{number}")
    def stranger(number: int) -> int:
        return storage.queue.schedule("strangers", f"stranger-{number}").id

    @app.post("/async/{number}")
    async def async_order(number: int, tx: Storage = Depends(tx)) -> int:  # noqa: B008
        job = await asyncio.to_thread(tx.queue.schedule, "async", f"async-{number}")
        await asyncio.gather(*(asyncio.to_thread(tx.events.append, "async", number) for _ in range(2)))
        fail(number)
        return job.id

    return app


def fail(number: int) -> None:
    if number in FAILS:
        raise HTTPException(409) if number % 2 else Broken


def async_application(storage: AsyncStorage) -> FastAPI:
    app = FastAPI()

    async def tx() -> Any:
        async with storage.transaction() as t:
            yield t

    @app.exception_handler(Broken)
    async def broken(request: Request, error: Broken) -> JSONResponse:
        return JSONResponse({"detail": "broken"}, status_code=500)

    @app.post("/orders/{number}")
    async def order(number: int, tx: AsyncStorage = Depends(tx)) -> int:  # noqa: B008
        job, _ = await asyncio.gather(
            tx.queue.schedule("orders", f"order-{number}"), tx.nonces.register(f"order-{number}")
        )
        fail(number)
        return job.id

    @app.post("/strangers/{number}")
    async def stranger(number: int) -> int:
        return (await storage.queue.schedule("strangers", f"stranger-{number}")).id

    return app


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application behind a real server, on a thread; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def post_all(address: str, paths: list[str]) -> dict[str, httpx.Response]:
    async def main() -> dict[str, httpx.Response]:
        limits = httpx.Limits(max_connections=len(paths))
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
            responses = await asyncio.gather(*(client.post(path) for path in paths))
        return dict(zip(paths, responses, strict=True))

    return asyncio.run(main())


def numbered(kind: str) -> list[str]:
    return [f"/{kind}/{number}" for number in range(REQUESTS)]


def stored(storage: Storage, platform: str) -> dict[int, str]:
    return {job.id: job.content for job in storage.queue.list(platform=platform, limit=1000)}


def acknowledged(responses: dict[str, httpx.Response], kind: str) -> dict[int, int]:
    """Of the requests that were answered with 200: the id by the number."""
    return {
        int(path.rpartition("/")[2]): response.json()
        for path, response in responses.items()
        if path.startswith(f"/{kind}/") and response.status_code == 200
    }


@pytest.fixture
def storage(make_backend: Callable[[int], StorageBackend]) -> Iterator[Storage]:
    with Storage(make_backend(10), auto_prune=False) as storage:
        storage.ping()
        yield storage


def test_every_answer_is_true(storage: Storage) -> None:
    """What was answered with 200 is stored, what was answered with an error is not, and nothing hangs."""
    paths = [path for pair in zip(numbered("orders"), numbered("strangers"), strict=True) for path in pair]
    with served(application(storage)) as address:
        responses = post_all(address, paths)
    orders = acknowledged(responses, "orders")
    assert set(orders) == set(range(REQUESTS)) - FAILS
    assert stored(storage, "orders") == {id: f"order-{number}" for number, id in orders.items()}
    assert {n for n in range(REQUESTS) if storage.nonces.seen(f"order-{n}")} == set(orders)
    session = storage.sessions.get("orders")
    assert session is not None
    assert session.data == session.version == len(orders)
    strangers = acknowledged(responses, "strangers")
    assert len(strangers) == REQUESTS
    assert stored(storage, "strangers") == {id: f"stranger-{number}" for number, id in strangers.items()}


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_every_answer_is_true_when_threads_run_out(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions that wait take all threads, and the one they wait for gets none: some give up."""
    monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.1)
    with served(application(storage, threads=10)) as address:
        responses = post_all(address, numbered("orders"))
    assert any(response.status_code == 503 for response in responses.values())
    orders = acknowledged(responses, "orders")
    assert stored(storage, "orders") == {id: f"order-{number}" for number, id in orders.items()}
    assert storage.queue.schedule("orders", "after").id


def test_a_nested_dependency(storage: Storage) -> None:
    with served(application(storage)) as address:
        nested = acknowledged(post_all(address, numbered("nested")), "nested")
    assert set(nested) == set(range(REQUESTS)) - FAILS
    assert stored(storage, "nested") == {id: f"nested-{number}" for number, id in nested.items()}


def test_an_async_endpoint_with_a_sync_dependency(storage: Storage) -> None:
    with served(application(storage)) as address:
        kept = acknowledged(post_all(address, numbered("async")), "async")
    assert set(kept) == set(range(REQUESTS)) - FAILS
    assert stored(storage, "async") == {id: f"async-{number}" for number, id in kept.items()}
    events = storage.events.list(event_type="async", limit=1000)
    assert sorted(event.payload for event in events) == sorted([*kept] * 2)


def test_an_async_dependency(make_backend: Callable[[int], StorageBackend]) -> None:
    backend = make_backend(10)
    paths = [path for pair in zip(numbered("orders"), numbered("strangers"), strict=True) for path in pair]
    storage = Storage(backend, auto_prune=False)
    facade = AsyncStorage(storage, threads=10)
    with served(async_application(facade)) as address:
        responses = post_all(address, paths)
    orders, strangers = acknowledged(responses, "orders"), acknowledged(responses, "strangers")
    assert set(orders) == set(range(REQUESTS)) - FAILS
    assert len(strangers) == REQUESTS
    assert stored(storage, "orders") == {id: f"order-{number}" for number, id in orders.items()}
    assert stored(storage, "strangers") == {id: f"stranger-{number}" for number, id in strangers.items()}
    asyncio.run(facade.close())
