"""The code on the pages about frameworks runs."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import warnings
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from aiogram import Bot, Dispatcher
from aiogram.methods import GetMe, SendMessage
from aiogram.types import Update, User
from fastapi import HTTPException
from telegram.request import HTTPXRequest

from assistly.storage import AsyncStorage, Storage, StorageClosed, open_async_storage, open_storage
from assistly.worker import AsyncWorker
from docs.blocks import blocks as page_blocks
from integrations import test_aiogram as aiogram_tests
from integrations import test_telegram as telegram_tests
from integrations.conftest import Run

pytest_plugins = ["pytester"]

PAGES = Path(__file__).resolve().parents[2] / "docs" / "how-to"


def blocks(page: str) -> list[str]:
    return [block.code for block in page_blocks(PAGES / page) if block.kind == "python"]


def namespace(page: str) -> dict[str, Any]:
    """What the blocks of a page define."""
    names: dict[str, Any] = {"__name__": "page"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of Starlette want a client of another name
        for block in blocks(page):
            exec(compile(block, page, "exec", dont_inherit=True), names)
    return names


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", "how-to.db")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("TELEGRAM_TOKEN", "42:secret")


@pytest.mark.usefixtures("_environment")
def test_aiogram(monkeypatch: pytest.MonkeyPatch) -> None:
    page, sent, texts = namespace("aiogram.md"), [], [["/order", "Ada"], []]

    async def send(_: Bot, method: Any) -> None:
        sent.append(method.text)

    async def feed(dispatcher: Dispatcher, bot: Bot) -> None:
        for text in texts.pop(0):
            await dispatcher.feed_update(bot, Update.model_validate(aiogram_tests.update(1, text)))

    async def with_a_worker() -> None:
        async with open_async_storage() as storage, Bot("42:secret") as bot:
            await page["run"](Dispatcher(), bot, AsyncWorker(storage, {"x": print}))

    async def confirm() -> None:
        async with open_async_storage() as storage, Bot("42:secret") as bot:
            dispatcher = Dispatcher(storage=page["AiogramStorage"](storage), assistly=storage)
            dispatcher.message.register(page["confirm"], page["Order"].name)
            await dispatcher.fsm.storage.set_state(aiogram_tests.KEY, page["Order"].name)
            await dispatcher.feed_update(bot, Update.model_validate(aiogram_tests.update(1, "Ada")))
            assert await dispatcher.fsm.storage.get_state(aiogram_tests.KEY) is None
            assert [job.content for job in await storage.queue.list()] == ["Ada"]

    monkeypatch.setattr(Bot, "__call__", send)
    monkeypatch.setattr(Dispatcher, "start_polling", feed)
    asyncio.run(page["main"]())
    assert sent == ["Your name?", "A cake for Ada"]
    asyncio.run(with_a_worker())
    assert texts == []
    asyncio.run(confirm())
    assert sent[2:] == ["It is scheduled"]


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("fails", [False, True])
def test_aiogram_in_fastapi(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    page, sent, done = namespace("aiogram.md"), [], asyncio.Event()
    updates = [Update.model_validate(aiogram_tests.update(1, "/order"))]

    async def call(_: Bot, method: Any, **__: Any) -> Any:
        if isinstance(method, GetMe):
            if fails:
                done.set()
                raise ValueError("a wrong token")
            return User(id=42, is_bot=True, first_name="Bakery")
        if isinstance(method, SendMessage):
            sent.append(method.text)
            done.set()
        elif updates:
            return [updates.pop()]
        else:
            await asyncio.Event().wait()
        return None

    async def main() -> None:
        with pytest.raises(ValueError, match="a wrong token") if fails else nullcontext():
            async with page["lifespan"](page["app"]):
                storage: AsyncStorage = page["app"].state.assistly_storage
                await done.wait()
                assert signal.getsignal(signal.SIGTERM) == before
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(StorageClosed):
            await storage.ping()

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Bot, "__call__", call)
    asyncio.run(main())
    assert sent == ([] if fails else ["Your name?"])


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("program", ["main", "main_with_tasks"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_python_telegram_bot(monkeypatch: pytest.MonkeyPatch, program: str, number: signal.Signals) -> None:
    page = namespace("python-telegram-bot.md")
    telegram = telegram_tests.Telegram()

    async def request(_: HTTPXRequest, url: str, method: str, data: Any = None, **__: Any) -> Any:
        if not url.endswith("/getUpdates"):
            answer = await telegram.do_request(url, method, __.get("request_data", data))
            if telegram.sent:
                signal.raise_signal(number)
            return answer
        updates = [] if telegram.sent else [{"update_id": 1, "message": telegram_tests.message(1, "/count")}]
        await asyncio.sleep(0.01)
        return 200, json.dumps({"ok": True, "result": updates}).encode()

    monkeypatch.setattr(HTTPXRequest, "do_request", request)
    running = page[program]()
    if program == "main_with_tasks":
        asyncio.run(running)
    with open_storage() as storage:
        session = storage.sessions.get("telegram:42:user:7")
        assert session is not None
        assert session.data == {"count": len(telegram.sent)}
    assert telegram.sent[0] == ("That was number 1", None)


@pytest.mark.parametrize(("page", "passed"), [("fastapi.md", 1), ("pytest.md", 5)])
def test_tests(
    run: Run,
    page: str,
    passed: int,
    monkeypatch: pytest.MonkeyPatch,
    pytester: pytest.Pytester,
    request: pytest.FixtureRequest,
) -> None:
    for block in page_blocks(PAGES / page):
        if block.kind == "file":
            pytester.makepyfile(**{Path(block.name).stem: block.code})
    if page == "pytest.md":
        monkeypatch.setenv("ASSISTLY_TEST_DATABASE_URL", request.getfixturevalue("database_url"))
    run("\n\n".join(blocks(page)), "-W", "ignore").assert_outcomes(passed=passed)


@pytest.mark.usefixtures("_environment")
def test_the_lifespans_of_fastapi() -> None:
    page = namespace("fastapi.md")

    async def main() -> None:
        for app in (page["app"], page["own"]):
            async with app.router.lifespan_context(app):
                storage: AsyncStorage = app.state.assistly_storage
                await storage.ping()
        assert isinstance(storage._storage, Storage)

    asyncio.run(main())


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("fails", [False, True])
def test_sqlalchemy_in_fastapi_commits_before_the_response(fails: bool) -> None:
    page = namespace("fastapi.md")
    app, orders = page["shop"], []

    async def fail(session: Any, bound: Any) -> None:
        await page["place_order"]("cake", session, bound)
        raise HTTPException(409)

    fail.__annotations__ |= {"session": page["SessionDep"], "bound": page["BoundDep"]}
    app.post("/fails")(fail)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        """What is stored when the response begins."""
        if message["type"] == "http.response.start":
            with closing(sqlite3.connect("shop.db")) as connection:
                ((stored,),) = connection.execute("SELECT count(*) FROM orders")
            jobs = await app.state.assistly_storage.queue.list()
            orders.append((message["status"], stored, len(jobs)))

    async def main() -> None:
        async with app.router.lifespan_context(app):
            async with page["engine"].begin() as connection:
                await connection.run_sync(page["Base"].metadata.create_all)
            path = "/fails" if fails else "/orders"
            query = {"query_string": b"item=tart", "headers": []}
            await app({"type": "http", "method": "POST", "path": path, **query}, receive, send)
            await page["engine"].dispose()

    asyncio.run(main())
    assert orders == [(409, 0, 0) if fails else (200, 1, 1)]
