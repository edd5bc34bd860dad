"""aiogram on a storage: the finite-state machine of a dispatcher, with a Telegram on this machine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import DataNotDictLikeError
from aiogram.filters import Command
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.types import Message, Update
from aiohttp import web

from assistly.integrations.aiogram import AiogramEventIsolation, AiogramStorage
from assistly.storage import (
    AsyncStorage,
    InvalidValue,
    Storage,
    StorageUnavailable,
    TransactionOpen,
    open_async_storage,
    open_storage,
)
from waiting import PATIENCE

KEY = StorageKey(bot_id=42, chat_id=7, user_id=7)


class Order(StatesGroup):
    name = State()
    size = State()


class Telegram:
    """A Bot API on the loopback: it delivers updates until they are confirmed, and takes messages."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self._updates: list[dict[str, Any]] = []
        self._confirmed = 0
        self._changed = asyncio.Condition()

    async def say(self, *texts: str, user: int = 7) -> None:
        async with self._changed:
            for text in texts:
                self._updates.append(update(len(self._updates) + 1, text, user))
            self._changed.notify_all()

    async def texts(self, number: int) -> list[str]:
        """What was sent, once that is so much."""
        async with self._changed:
            with suppress(TimeoutError):
                enough = self._changed.wait_for(lambda: len(self.sent) >= number)
                await asyncio.wait_for(enough, PATIENCE)
        assert len(self.sent) == number, self.sent
        return [text for _, text in self.sent]

    async def confirmed(self) -> None:
        """Wait until no update would be delivered again."""
        async with self._changed:
            everything = self._changed.wait_for(lambda: self._confirmed >= len(self._updates))
            await asyncio.wait_for(everything, PATIENCE)

    async def answer(self, request: web.Request) -> web.Response:
        method, values = request.match_info["method"], await request.post()
        result: Any = True
        if method == "getMe":
            result = {"id": 42, "is_bot": True, "first_name": "Bakery", "username": "bakery"}
        elif method == "getUpdates":

            def waiting() -> list[dict[str, Any]]:
                return self._updates[self._confirmed :]

            async with self._changed:
                self._confirmed = max(self._confirmed, int(str(values.get("offset", 1))) - 1)
                self._changed.notify_all()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait_for(waiting), 1)
                result = waiting()
        elif method == "sendMessage":
            chat, text = int(str(values["chat_id"])), str(values["text"])
            async with self._changed:
                self.sent.append((chat, text))
                self._changed.notify_all()
            result = update(1, text, chat)["message"]
        return web.json_response({"ok": True, "result": result})

    @asynccontextmanager
    async def bot(self) -> AsyncIterator[Bot]:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        session = AiohttpSession(api=TelegramAPIServer.from_base(f"http://127.0.0.1:{port}"))
        try:
            async with Bot("42:secret", session=session) as bot:
                yield bot
        finally:
            await runner.cleanup()


def update(number: int, text: str, user: int = 7) -> dict[str, Any]:
    person = {"id": user, "is_bot": False, "first_name": "Ada"}
    chat = {"id": user, "type": "private"}
    at = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    return {
        "update_id": number,
        "message": {"message_id": number, "date": at, "chat": chat, "from": person, "text": text},
    }


def dispatcher(storage: AsyncStorage) -> Dispatcher:
    router = Router()

    @router.message(Command("order"))
    async def order(message: Message, state: FSMContext) -> None:
        await state.set_state(Order.name)
        await message.answer("Your name?")

    @router.message(Order.name)
    async def name(message: Message, state: FSMContext) -> None:
        await state.update_data(name=message.text)
        await state.set_state(Order.size)
        await message.answer("What size?")

    @router.message(Order.size)
    async def size(message: Message, state: FSMContext) -> None:
        data = await state.update_data(size=message.text)
        await state.clear()
        await message.answer(f"A {data['size']} cake for {data['name']}")

    @router.message(F.text == "count")
    async def count(message: Message, state: FSMContext) -> None:
        """Not atomic by itself: the isolation makes it so."""
        number = (await state.get_data()).get("count", 0)
        await asyncio.sleep(0)
        await state.update_data(count=number + 1)

    found = Dispatcher(
        storage=AiogramStorage(storage),
        events_isolation=AiogramEventIsolation(storage, ttl=timedelta(minutes=1)),
    )
    found.include_router(router)
    return found


@asynccontextmanager
async def polling(storage: AsyncStorage, bot: Bot) -> AsyncIterator[None]:
    running = dispatcher(storage)
    task = asyncio.create_task(running.start_polling(bot, handle_signals=False, close_bot_session=False))
    try:
        yield
    finally:
        await running.stop_polling()
        await task


def sessions(storage: Storage) -> list[tuple[str, Any]]:
    return [(session.user_id, session.data) for session in storage.sessions.list()]


def test_a_restart_in_the_middle_of_a_conversation(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        telegram = Telegram()
        async with telegram.bot() as bot:
            async with open_async_storage(**settings) as storage, polling(storage, bot):
                await telegram.say("/order", "Ada")
                await telegram.texts(2)
                await telegram.confirmed()
            stored = {"state": "Order:size", "data": {"name": "Ada"}}
            assert sessions(outside) == [('aiogram:[42,7,7,null,null,"default"]', stored)]
            async with open_async_storage(**settings) as storage, polling(storage, bot):
                await telegram.say("large")
                assert (await telegram.texts(3))[2] == "A large cake for Ada"

    asyncio.run(main())
    assert sessions(outside) == []


def test_two_dispatchers_isolate_a_conversation(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        telegram = Telegram()
        async with (
            telegram.bot() as bot,
            open_async_storage(**settings) as one,
            open_async_storage(**settings) as two,
        ):
            both = [dispatcher(one), dispatcher(two)]
            numbers = range(20)
            updates = [Update.model_validate(update(n + 1, "count", 7 + n % 2)) for n in numbers]
            await asyncio.gather(*(both[n // 2 % 2].feed_update(bot, updates[n]) for n in numbers))

    asyncio.run(main())
    assert [data["data"] for _, data in sessions(outside)] == [{"count": 10}, {"count": 10}]


def test_each_field_of_the_key_counts(settings: dict[str, Any]) -> None:
    keys = [
        KEY,
        StorageKey(43, 7, 7),
        StorageKey(42, 8, 7),
        StorageKey(42, 7, 8),
        StorageKey(42, 7, 7, thread_id=1),
        StorageKey(42, 7, 7, business_connection_id="1"),
        StorageKey(42, 7, 7, business_connection_id="null"),
        StorageKey(42, 7, 7, destiny="scene"),
        StorageKey(42, 7, 7, destiny='","'),
        StorageKey(42, 7, 7, thread_id=1, business_connection_id="1", destiny="é"),
    ]

    async def main() -> None:
        async with open_async_storage(**settings) as storage:
            fsm = AiogramStorage(storage)
            for number, key in enumerate(keys):
                await fsm.set_state(key, f"state {number}")
                await fsm.set_data(key, {"number": number})
            for number, key in enumerate(keys):
                assert await fsm.get_state(key) == f"state {number}"
                assert await fsm.get_data(key) == {"number": number}
                assert await fsm.get_value(key, "number") == number

    asyncio.run(main())


def test_the_methods(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage:
            fsm = AiogramStorage(storage)
            assert await fsm.get_state(KEY) is None
            assert await fsm.get_data(KEY) == {}
            await fsm.set_state(KEY)
            await fsm.set_data(KEY, {})
            assert await fsm.update_data(KEY, {}) == {}
            assert sessions(outside) == []
            await fsm.set_state(KEY, Order.size)
            await fsm.set_state(KEY, "Order:name")
            assert await fsm.update_data(KEY, {"a": 1, "b": [None, {"c": "é"}]}) == {
                "a": 1,
                "b": [None, {"c": "é"}],
            }
            assert await fsm.update_data(KEY, {"a": 2.5}) == {"a": 2.5, "b": [None, {"c": "é"}]}
            assert await fsm.get_value(KEY, "missing", "default") == "default"
            await fsm.set_state(KEY, None)
            assert await fsm.get_state(KEY) is None
            assert await fsm.get_data(KEY) == {"a": 2.5, "b": [None, {"c": "é"}]}
            await fsm.set_data(KEY, {})
            assert sessions(outside) == []
            await fsm.close()
            await storage.ping()

    asyncio.run(main())


def test_values_that_are_no_json(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage:
            fsm = AiogramStorage(storage)
            await fsm.set_data(KEY, {"kept": 1})
            for write in (fsm.set_data, fsm.update_data):
                with pytest.raises(
                    InvalidValue, match=r"data\['born'\] holds a date, which is not a JSON value"
                ):
                    await write(KEY, {"ok": 1, "born": date(2000, 1, 1)})
                with pytest.raises(InvalidValue, match="data has the key 1: keys must be str"):
                    await write(KEY, {1: 1})  # type: ignore[dict-item]
                with pytest.raises(DataNotDictLikeError):
                    await write(KEY, [])  # type: ignore[arg-type]
            async with storage.transaction():
                with pytest.raises(TransactionOpen):
                    await fsm.set_state(KEY, "a")

    asyncio.run(main())
    assert [data["data"] for _, data in sessions(outside)] == [{"kept": 1}]


UPDATES = """
import asyncio, json, sys

from aiogram.fsm.storage.base import StorageKey

from assistly.integrations.aiogram import AiogramStorage
from assistly.storage import open_async_storage

async def main(settings, process):
    async with open_async_storage(**settings) as storage:
        fsm, key = AiogramStorage(storage), StorageKey(42, 7, 7)
        print(flush=True)
        sys.stdin.readline()
        for number in range(20):
            await fsm.update_data(key, {f"{process}-{number}": number})
            await fsm.set_state(key, process)

asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2]))
"""


def test_two_processes_lose_no_update(settings: dict[str, Any], outside: Storage) -> None:
    given = json.dumps(settings, default=str)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPDATES, given, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    [(_, stored)] = sessions(outside)
    assert len(stored["data"]) == 40


def test_clearing_loses_no_update(settings: dict[str, Any]) -> None:
    """A conversation without state and data is deleted, while another one writes to it."""

    async def main() -> None:
        async with open_async_storage(**settings) as one, open_async_storage(**settings) as two:
            fsm, other = AiogramStorage(one), AiogramStorage(two)
            for number in range(20):
                await asyncio.gather(other.set_data(KEY, {"number": number}), fsm.set_state(KEY, None))
                assert await fsm.get_data(KEY) == {"number": number}
                await asyncio.gather(other.set_state(KEY, "state"), fsm.set_data(KEY, {}))
                assert await fsm.get_state(KEY) == "state"
                await fsm.set_state(KEY, None)

    asyncio.run(main())


async def _hold(isolation: AiogramEventIsolation, note: list[int], number: int, until: asyncio.Event) -> None:
    async with isolation.lock(KEY):
        note.append(number)
        await until.wait()


def test_isolation_keeps_the_order_in_a_process(settings: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage:
            isolation = AiogramEventIsolation(storage)
            order: list[int] = []
            go = asyncio.Event()
            tasks = [asyncio.create_task(_hold(isolation, order, n, go)) for n in range(10)]
            while not order:
                await asyncio.sleep(0.001)
            assert order == [0]
            assert len(await storage.lock.list()) == 1
            go.set()
            await asyncio.gather(*tasks)
            assert order == [*range(10)]
            assert await storage.lock.list() == []
            assert not isolation._locks._turns
            await isolation.close()

    asyncio.run(main())


def test_isolation_outlasts_its_ttl(settings: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as one, open_async_storage(**settings) as two:
            ttl = timedelta(seconds=2)
            order: list[int] = []
            go, at_once = asyncio.Event(), asyncio.Event()
            at_once.set()
            first = asyncio.create_task(_hold(AiogramEventIsolation(one, ttl=ttl), order, 1, go))
            while not order:
                await asyncio.sleep(0.001)
            [held] = await one.lock.list()
            second = asyncio.create_task(_hold(AiogramEventIsolation(two, ttl=ttl), order, 2, at_once))
            while (await one.lock.list())[0].expires_at < held.expires_at + 2 * ttl:
                await asyncio.sleep(0.01)
            assert order == [1]
            go.set()
            await asyncio.gather(first, second)
            assert order == [1, 2]

    asyncio.run(main())


def test_isolation_ends_with_an_error(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage:
            isolation = AiogramEventIsolation(storage)
            with pytest.raises(ValueError, match="of the handler"):
                async with isolation.lock(KEY):
                    raise ValueError("of the handler")
            assert await storage.lock.list() == []

            async def fail(_: Any) -> bool:
                raise StorageUnavailable("on purpose")

            monkeypatch.setattr(isolation._locks._locks, "release", fail)
            async with isolation.lock(KEY):
                pass
            assert "could not release a lock, which stays held for 0:00:30: on purpose" in caplog.messages

    asyncio.run(main())


def test_isolation_cancelled_while_it_takes_a_lock(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that takes it goes on."""

    async def main() -> None:
        async with open_async_storage(**settings) as storage:
            isolation = AiogramEventIsolation(storage)
            begun, go, taken = asyncio.Event(), threading.Event(), threading.Event()
            locks, loop = storage._storage.lock, asyncio.get_running_loop()
            acquire = locks.acquire

            def slow(*given: Any, **keywords: Any) -> Any:
                loop.call_soon_threadsafe(begun.set)
                assert go.wait(PATIENCE)
                lock = acquire(*given, **keywords)
                taken.set()
                return lock

            monkeypatch.setattr(locks, "acquire", slow)
            order: list[int] = []
            task = asyncio.create_task(_hold(isolation, order, 1, asyncio.Event()))
            await begun.wait()
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(taken.wait, PATIENCE)
            assert order == []
            assert await storage.lock.list() == []

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_isolation_cancelled_while_it_releases_a_lock(settings: dict[str, Any]) -> None:
    """All threads are busy, so that the call has not begun."""

    async def main() -> None:
        async with open_async_storage(**settings, pool_size=1) as storage:
            isolation = AiogramEventIsolation(storage)
            order: list[int] = []
            until, go = asyncio.Event(), threading.Event()
            task = asyncio.create_task(_hold(isolation, order, 1, until))
            while not order:
                await asyncio.sleep(0.001)
            busy = asyncio.create_task(storage.sessions.update("7", lambda _: go.wait(PATIENCE)))
            await asyncio.sleep(0)
            until.set()
            while isolation._locks._held:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await busy
            assert await storage.lock.list() == []

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


@pytest.mark.parametrize("handler_ends", [True, False])
def test_a_dispatcher_that_stops_releases_its_locks(settings: dict[str, Any], handler_ends: bool) -> None:
    """It waits for handlers, which aiogram does not, but not for ever."""
    done: list[str] = []

    async def main() -> None:
        telegram = Telegram()
        begun, closing, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        async with telegram.bot() as bot, open_async_storage(**settings) as storage:

            class Isolation(AiogramEventIsolation):
                async def close(self) -> None:
                    closing.set()
                    await super().close()

            grace = timedelta(seconds=PATIENCE if handler_ends else 0)
            isolation = Isolation(storage, grace=grace)
            running = Dispatcher(storage=AiogramStorage(storage), events_isolation=isolation)

            @running.message()
            async def handle(message: Message, state: FSMContext) -> None:
                begun.set()
                await go.wait()
                await state.update_data(text=message.text)
                done.append(str(message.text))

            task = asyncio.create_task(
                running.start_polling(bot, handle_signals=False, close_bot_session=False)
            )
            await telegram.say("one", "two")
            await telegram.confirmed()
            await begun.wait()
            stopping = asyncio.create_task(running.stop_polling())
            await closing.wait()
            if handler_ends:
                assert len(await storage.lock.list()) == 1
                go.set()
            await asyncio.gather(stopping, task)
            assert done == (["one", "two"] if handler_ends else [])
            assert await storage.lock.list() == []
            go.set()
            while isolation._locks._blocks:
                await asyncio.sleep(0.001)
            # What still waits for its turn must not take a lock that nobody would release.
            assert done == (["one", "two"] if handler_ends else ["one"])
            assert await storage.lock.list() == []

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE))


def test_the_memory_engine() -> None:
    async def main() -> None:
        with open_storage(engine="memory", auto_prune=False) as inner:
            storage = AsyncStorage(inner)
            fsm = AiogramStorage(storage)
            await asyncio.gather(*(fsm.update_data(KEY, {str(n): n}) for n in range(10)))
            assert len(await fsm.get_data(KEY)) == 10
            await fsm.set_data(KEY, {})
            assert sessions(inner) == []
            await storage.close()

    asyncio.run(main())


def test_a_wrong_storage() -> None:
    with (
        open_storage(engine="memory", auto_prune=False) as storage,
        pytest.raises(InvalidValue, match="storage must be an AsyncStorage"),
    ):
        AiogramStorage(storage)  # type: ignore[arg-type]
