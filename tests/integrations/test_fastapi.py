"""FastAPI with a storage: when transactions are committed, and a worker in the lifespan of the server."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse

from assistly.integrations.fastapi import (
    StorageDep,
    SyncStorageDep,
    TransactionDep,
    get_storage,
    storage_lifespan,
)
from assistly.storage import (
    AsyncStorage,
    ConfigurationError,
    InvalidValue,
    JobStatus,
    Storage,
    StorageError,
    TransactionOpen,
    open_storage,
)
from assistly.worker import AsyncWorker
from integrations.conftest import platforms
from waiting import PATIENCE, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions of Starlette want a client of another name
    from fastapi.testclient import TestClient


class Broken(Exception):
    """Raised on purpose, after the request has written."""


async def also_writes(tx: TransactionDep) -> None:
    await tx.queue.schedule("dependency", "before")


def application(**settings: Any) -> FastAPI:
    app = FastAPI(lifespan=storage_lifespan(**settings))
    app.state.problems = []

    async def note(action: Coroutine[Any, Any, Any]) -> None:
        try:
            await action
        except StorageError as error:
            app.state.problems.append(type(error).__name__)

    @app.post("/jobs/{content}", dependencies=[Depends(also_writes)])
    async def jobs(content: str, tx: TransactionDep) -> int:
        await tx.sessions.update("count", lambda count: count + 1, default=0)
        return (await tx.queue.schedule("x", content)).id

    @app.post("/raises/{status}")
    async def raises(status: int, tx: TransactionDep) -> None:
        await tx.queue.schedule("x", "undone")
        raise HTTPException(status) if status else Broken

    @app.post("/answers/{status}")
    async def answers(status: int, tx: TransactionDep) -> JSONResponse:
        await tx.queue.schedule("x", "kept")
        return JSONResponse({}, status)

    @app.post("/invalid", response_model=int)
    async def invalid(tx: TransactionDep) -> str:
        await tx.queue.schedule("x", "undone")
        return "no number"

    @app.post("/closed")
    async def closed(tx: TransactionDep, storage: StorageDep) -> int:
        job = await tx.queue.schedule("x", "undone")
        await storage.close()
        return job.id

    @app.post("/inside")
    async def inside(tx: TransactionDep, storage: StorageDep) -> None:
        await tx.queue.schedule("x", "a")
        await note(storage.queue.schedule("x", "b"))

    @app.post("/background")
    async def background(tx: TransactionDep, storage: StorageDep, tasks: BackgroundTasks) -> None:
        job = await tx.queue.schedule("x", "a")

        async def after() -> None:
            assert await storage.queue.get(job.id) == job
            await storage.queue.schedule("x", "background")
            await note(tx.queue.schedule("x", "too late"))

        tasks.add_task(after)

    @app.post("/stream")
    async def stream(tx: TransactionDep, storage: StorageDep) -> StreamingResponse:
        job = await tx.queue.schedule("x", "a")

        async def body() -> AsyncIterator[str]:
            found = await storage.queue.get(job.id)
            assert found is not None
            yield found.content
            await note(tx.queue.schedule("x", "too late"))
            yield "end"

        return StreamingResponse(body())

    @app.post("/threads/{content}")
    def threads(content: str, storage: SyncStorageDep) -> int:
        with storage.transaction() as tx:
            job = tx.queue.schedule("x", content)
            tx.sessions.update("count", lambda count: count + 1, default=0)
            if content == "undone":
                raise HTTPException(409)
            return job.id

    @app.post("/both", dependencies=[Depends(also_writes)])
    def both(storage: SyncStorageDep) -> None:
        try:
            storage.queue.schedule("x", "outside of the transaction")
        except StorageError as error:
            app.state.problems.append(type(error).__name__)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, storage: StorageDep) -> None:
        await websocket.accept()
        await websocket.send_json((await storage.queue.schedule("x", "socket")).id)
        await websocket.close()

    return app


Seen = list[dict[str, list[str]]]


def watched(app: FastAPI, storage: Storage, seen: Seen) -> Any:
    """The application, and what others see in the storage when the response begins to be sent."""

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        async def look_and_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(await asyncio.to_thread(platforms, storage))
            await send(message)

        await app(scope, receive, look_and_send)

    return watch


@asynccontextmanager
async def client(app: FastAPI, asgi: Any = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=asgi or app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app", timeout=PATIENCE) as opened,
    ):
        yield opened


def ask(app: FastAPI, path: str, asgi: Any = None) -> httpx.Response:
    async def main() -> httpx.Response:
        async with client(app, asgi) as opened:
            return await opened.post(path)

    return asyncio.run(main())


def test_it_is_committed_before_the_response(settings: dict[str, Any], outside: Storage) -> None:
    app, seen = application(**settings), Seen()
    response = ask(app, "/jobs/a", watched(app, outside, seen))
    assert response.status_code == 200
    assert seen == [{"dependency": ["before"], "x": ["a"]}]
    job = outside.queue.get(response.json())
    assert job is not None
    assert job.content == "a"


@pytest.mark.parametrize(
    ("path", "status"), [("/raises/409", 409), ("/raises/0", 500), ("/invalid", 500), ("/closed", 500)]
)
def test_it_is_undone(settings: dict[str, Any], outside: Storage, path: str, status: int) -> None:
    app, seen = application(**settings), Seen()
    assert ask(app, path, watched(app, outside, seen)).status_code == status
    assert seen == [{}]
    assert platforms(outside) == {}


def test_a_response_with_an_error_that_is_returned_commits(
    settings: dict[str, Any], outside: Storage
) -> None:
    assert ask(application(**settings), "/answers/400").status_code == 400
    assert platforms(outside) == {"x": ["kept"]}


def test_the_storage_inside_a_transaction(settings: dict[str, Any], outside: Storage) -> None:
    app = application(**settings)
    assert ask(app, "/inside").status_code == 200
    assert app.state.problems == [TransactionOpen.__name__]
    assert platforms(outside) == {"x": ["a"]}


def test_background_tasks_run_after_the_commit(settings: dict[str, Any], outside: Storage) -> None:
    app, seen = application(**settings), Seen()
    assert ask(app, "/background", watched(app, outside, seen)).status_code == 200
    assert seen == [{"x": ["a"]}]
    assert len(app.state.problems) == 1
    assert platforms(outside) == {"x": ["a", "background"]}


def test_streams_run_after_the_commit(settings: dict[str, Any], outside: Storage) -> None:
    app, seen = application(**settings), Seen()
    assert ask(app, "/stream", watched(app, outside, seen)).text == "aend"
    assert seen == [{"x": ["a"]}]
    assert len(app.state.problems) == 1
    assert platforms(outside) == {"x": ["a"]}


def test_two_servers_at_once(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> list[httpx.Response]:
        apps = [application(**settings), application(**settings)]
        async with client(apps[0]) as one, client(apps[1]) as two:
            paths = [f"/jobs/{number}" if number % 4 else "/raises/409" for number in range(40)]
            return await asyncio.gather(
                *((one if number % 2 else two).post(path) for number, path in enumerate(paths))
            )

    responses = asyncio.run(main())
    assert [response.status_code for response in responses] == [200 if n % 4 else 409 for n in range(40)]
    session = outside.sessions.get("count")
    assert session is not None
    assert session.data == 30
    assert sorted(platforms(outside)["x"], key=int) == [str(n) for n in range(40) if n % 4]


def test_functions_in_threads(settings: dict[str, Any], outside: Storage) -> None:
    contents = ["undone" if number % 4 == 0 else str(number) for number in range(100)]
    app, seen = application(**settings), Seen()
    assert ask(app, "/threads/first", watched(app, outside, seen)).status_code == 200
    assert seen == [{"x": ["first"]}]

    async def main() -> list[httpx.Response]:
        async with client(app) as opened:
            return await asyncio.gather(*(opened.post(f"/threads/{content}") for content in contents))

    responses = asyncio.run(main())
    assert [response.status_code for response in responses] == [409, 200, 200, 200] * 25
    written = ["first", *(content for content in contents if content != "undone")]
    assert sorted(platforms(outside)["x"]) == sorted(written)
    session = outside.sessions.get("count")
    assert session is not None
    assert session.data == len(written)


def test_functions_in_threads_beside_a_transaction_of_the_request(
    settings: dict[str, Any], outside: Storage
) -> None:
    app = application(**settings)
    assert ask(app, "/both").status_code == 200
    assert app.state.problems == [TransactionOpen.__name__]
    assert platforms(outside) == {"dependency": ["before"]}


def test_websockets_and_mounted_applications(settings: dict[str, Any], outside: Storage) -> None:
    inner = FastAPI()

    @inner.post("/jobs")
    async def jobs(tx: TransactionDep) -> int:
        return (await tx.queue.schedule("x", "mounted")).id

    app = application(**settings)
    app.mount("/inner", inner)
    with TestClient(app) as opened:
        with opened.websocket_connect("/socket") as connection:
            connection.receive_json()
        assert opened.post("/inner/jobs").status_code == 200
    assert platforms(outside) == {"x": ["socket", "mounted"]}


class Posts:
    def __init__(self, tx: TransactionDep, storage: StorageDep) -> None:
        self.tx = tx


def passed_on(tx: TransactionDep, storage: StorageDep) -> AsyncStorage:
    return tx


def test_a_socket_has_no_transaction(settings: dict[str, Any], outside: Storage) -> None:
    app = FastAPI(lifespan=storage_lifespan(**settings))

    @app.websocket("/itself")
    async def itself(websocket: WebSocket, tx: TransactionDep) -> None:
        await talk(websocket, tx)

    @app.websocket("/dependency")
    async def dependency(websocket: WebSocket, tx: Annotated[AsyncStorage, Depends(passed_on)]) -> None:
        await talk(websocket, tx)

    async def talk(websocket: WebSocket, tx: AsyncStorage) -> None:
        await websocket.accept()
        while True:
            await websocket.send_json((await tx.queue.schedule("x", await websocket.receive_text())).id)

    with TestClient(app) as opened:
        for path in ("/itself", "/dependency"):
            with (
                pytest.raises(ConfigurationError, match="for each message"),
                opened.websocket_connect(path) as connection,
            ):
                connection.send_text("a")
                assert outside.queue.get(connection.receive_json()) is not None


def keep(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that is not async."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Endpoints:
    def storage(self, storage: StorageDep) -> None:
        storage.queue.schedule("x", "lost")  # type: ignore[unused-coroutine]

    def transaction(self, tx: TransactionDep) -> None:
        tx.queue.schedule("x", "lost")  # type: ignore[unused-coroutine]

    @keep
    def decorated(self, tx: TransactionDep) -> None:
        tx.queue.schedule("x", "lost")  # type: ignore[unused-coroutine]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("is_overridden", [False, True])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("storage", "StorageDep"), ("transaction", "TransactionDep"), ("decorated", "TransactionDep")],
)
def test_a_function_that_is_not_async_is_refused(name: str, wanted: str, is_overridden: bool) -> None:
    app = FastAPI(lifespan=storage_lifespan(engine="memory"))
    router = APIRouter()
    router.post("/")(getattr(Endpoints(), name))
    app.include_router(router, prefix="/included", dependencies=[Depends(also_writes)])
    if is_overridden:
        storage = open_storage(engine="memory", auto_prune=False)
        app.dependency_overrides[get_storage] = lambda: AsyncStorage(storage)
    with (
        TestClient(app) as opened,
        pytest.raises(ConfigurationError, match=f"{name} .* takes {wanted}.*SyncStorageDep"),
    ):
        opened.post("/included/")


class CallableEndpoint:
    def __call__(self, storage: StorageDep) -> None:
        storage.queue.schedule("x", "lost")  # type: ignore[unused-coroutine]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("endpoint", [CallableEndpoint(), functools.partial(Endpoints().storage)])
def test_what_fastapi_calls_in_a_thread_is_refused(endpoint: Any) -> None:
    app = FastAPI(lifespan=storage_lifespan(engine="memory"))
    app.post("/")(endpoint)
    with TestClient(app) as opened, pytest.raises(ConfigurationError, match="takes StorageDep"):
        opened.post("/")


def test_an_override_that_is_no_async_storage(settings: dict[str, Any], outside: Storage) -> None:
    app = application(**settings)
    app.dependency_overrides[get_storage] = lambda: outside
    with TestClient(app) as opened:
        for path in ("/jobs/a", "/threads/a"):
            with pytest.raises(InvalidValue, match="storage must be an AsyncStorage"):
                opened.post(path)


def test_what_may_take_the_storage(settings: dict[str, Any], outside: Storage) -> None:
    """Functions that are not async may pass it on, and have dependencies that await it."""

    app = FastAPI(lifespan=storage_lifespan(**settings), dependencies=[Depends(also_writes)])

    @app.post("/class")
    async def of_class(found: Annotated[Posts, Depends()]) -> int:
        return (await found.tx.queue.schedule("x", "class")).id

    @app.post("/function")
    @keep
    async def of_function(found: Annotated[AsyncStorage, Depends(passed_on)]) -> int:
        return (await found.queue.schedule("x", "function")).id

    @app.post("/decorated")
    @keep
    async def decorated(tx: TransactionDep) -> int:
        return (await tx.queue.schedule("x", "decorated")).id

    @app.post("/plain", dependencies=[Depends(get_storage)])
    def plain(found: Annotated[AsyncStorage, Depends(passed_on)]) -> None:
        assert isinstance(found, AsyncStorage)

    with TestClient(app) as opened:
        for path in ("/class", "/function", "/decorated", "/plain"):
            assert opened.post(path).status_code == 200
    assert platforms(outside) == {"dependency": ["before"] * 4, "x": ["class", "function", "decorated"]}


def test_a_mounted_application_with_a_storage_of_its_own() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with storage_lifespan(engine="memory")(app) as state, storage_lifespan(engine="memory")(inner):
            yield state

    async def is_own(request: Request, storage: StorageDep) -> bool:
        return storage is request.app.state.assistly_storage

    app, inner = FastAPI(lifespan=lifespan), FastAPI()
    for each in (app, inner):
        each.get("/")(is_own)
    app.mount("/inner", inner)
    with TestClient(app) as opened:
        assert [opened.get(path).json() for path in ("/", "/inner/")] == [True, True]


def test_it_needs_no_thread_of_the_pool() -> None:
    app = FastAPI(lifespan=storage_lifespan(engine="memory"))

    @app.post("/")
    async def ask_it(storage: StorageDep, tx: TransactionDep) -> str:
        return (await tx.queue.schedule("x", "a")).content

    async def main() -> httpx.Response:
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = 1
        async with client(app) as opened, threads, asyncio.timeout(PATIENCE):
            return await opened.post("/")

    assert asyncio.run(main()).json() == "a"


def test_a_lifespan_of_ones_own(settings: dict[str, Any]) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with storage_lifespan(**settings)(app) as state:
            order.append("open")
            yield state
            await app.state.assistly_storage.ping()
            order.append("still open")

    async def ping(storage: StorageDep) -> bool:
        return await storage.ping() >= 0

    app, inner = FastAPI(lifespan=lifespan), FastAPI()
    for each in (app, inner):
        each.get("/")(ping)
    app.mount("/inner", inner)
    for _ in range(2):  # a lifespan may run again
        with TestClient(app) as opened:
            assert opened.get("/").json() is True
            assert opened.get("/inner/").json() is True
    assert order == ["open", "still open"] * 2


def test_without_a_lifespan() -> None:
    app = application(engine="memory")
    with pytest.raises(ConfigurationError, match=r"FastAPI\(lifespan=storage_lifespan"):
        TestClient(app).post("/jobs/a")


def test_tests_override_the_storage() -> None:
    app = application(engine="postgres", database_url="postgresql://nobody@127.0.0.1:1/none")
    with open_storage(engine="memory", auto_prune=False) as storage:
        app.dependency_overrides[get_storage] = lambda: AsyncStorage(storage)
        assert TestClient(app).post("/jobs/a").status_code == 200
        assert platforms(storage) == {"dependency": ["before"], "x": ["a"]}
        assert TestClient(app).post("/threads/b").status_code == 200
        assert platforms(storage)["x"] == ["a", "b"]


def test_a_worker(settings: dict[str, Any], outside: Storage) -> None:
    loops: list[object] = []

    async def publish(_: object) -> str:
        loops.append(asyncio.get_running_loop())
        return "remote"

    async def main() -> None:
        app = application(publishers={"x": publish}, worker={"worker_id": "web"}, **settings)
        async with client(app) as opened:
            job = (await opened.post("/jobs/a")).json()
            await asyncio.to_thread(until, lambda: is_posted(outside, job))
            assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


def is_posted(storage: Storage, id: int) -> bool:
    job = storage.queue.get(id)
    return job is not None and job.status is JobStatus.POSTED


def test_a_worker_that_fails(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: AsyncWorker) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(AsyncWorker, "run", fail)
    app = application(publishers={"x": print}, **settings)
    caplog.set_level(logging.ERROR)
    with pytest.raises(RuntimeError, match="on purpose"), TestClient(app) as opened:
        assert opened.post("/jobs/a").status_code == 200
        assert caplog.messages == ["the worker failed; no more jobs are published"]
        storage: AsyncStorage = app.state.assistly_storage
    assert storage._closed


def test_the_health_of_the_worker(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    app = application(publishers={"x": print}, **settings)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"), TestClient(app):
        worker: AsyncWorker = app.state.assistly_worker
        until(lambda: worker.health.ready)
        monkeypatch.setattr(app.state.assistly_storage._storage.queue, "sweep_and_claim", fail)
        until(lambda: not worker.health.alive)
        assert worker.health.why == ["the worker has ended: ValueError: a fault"]
    assert app.state.assistly_worker is None


def test_wrong_options() -> None:
    with pytest.raises(ConfigurationError, match="there are no publishers"):
        storage_lifespan(worker={"concurrency": 1}, engine="memory")
    app = application(publishers={"x": print}, worker={"concurrency": 0}, engine="memory")
    with pytest.raises(InvalidValue, match="concurrency"), TestClient(app):
        pass


SERVER = """
import asyncio
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from assistly.integrations.fastapi import TransactionDep, storage_lifespan

async def publish(job):
    Path("publishing").touch()
    while not Path("release").exists():
        await asyncio.sleep(0.005)
    return "remote"

app = FastAPI(lifespan=storage_lifespan({"x": publish}))

@app.post("/jobs/{content}")
async def jobs(content: str, tx: TransactionDep) -> int:
    return (await tx.queue.schedule("x", content)).id

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="info")
"""


@pytest.mark.parametrize(
    ("settings", "which"),
    [("sqlite", signal.SIGTERM), ("postgres", signal.SIGINT)],
    indirect=["settings"],
)
def test_a_server_that_is_stopped_drains_its_worker(
    settings: dict[str, Any],
    outside: Storage,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    which: signal.Signals,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "server.py").write_text(SERVER.replace("PORT", str(port)))
    monkeypatch.setenv("STORAGE_ENGINE", settings["engine"])
    if settings["engine"] == "sqlite":
        monkeypatch.setenv("SQLITE_PATH", str(settings["sqlite_path"]))
    else:
        monkeypatch.setenv("DATABASE_URL", settings["database_url"])
        monkeypatch.setenv("STORAGE_SCHEMA", settings["schema"])
    before = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{before}; runpy.run_path('server.py', run_name='__main__')"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            until(lambda: server.poll() is not None or answers(port))
            address = f"http://127.0.0.1:{port}"
            first = httpx.post(f"{address}/jobs/first", timeout=PATIENCE).json()
            until((tmp_path / "publishing").exists)
            server.send_signal(which)
            assert server.stderr is not None
            assert any("Waiting for application shutdown" in line for line in server.stderr)
            (tmp_path / "release").touch()
            _, log = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
    assert "Application shutdown complete" in log
    assert is_posted(outside, first)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
