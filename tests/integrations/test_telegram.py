"""python-telegram-bot on a storage: its persistence, with a Telegram on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackQueryHandler,
    CommandHandler,
    ConversationHandler,
    MessageHandler,
    PersistenceInput,
    filters,
)
from telegram.request import BaseRequest, RequestData

from assistly.integrations import named_values
from assistly.integrations.telegram import TelegramPersistence
from assistly.storage import AsyncStorage, InvalidValue, Storage, StorageUnavailable, open_async_storage
from assistly.storage.aio.stores import AsyncSessions

NAME, SIZE = range(2)


class Telegram(BaseRequest):
    """A Bot API inside the process, in the place of HTTP."""

    def __init__(self, id: int = 42) -> None:
        self.id = id
        self.sent: list[tuple[str, str | None]] = []

    @property
    def read_timeout(self) -> float:
        return 5

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    async def do_request(
        self, url: str, method: str, request_data: RequestData | None = None, *_: Any, **__: Any
    ) -> tuple[int, bytes]:
        result: Any = True
        if url.endswith("/getMe"):
            result = {"id": self.id, "is_bot": True, "first_name": "Bakery", "username": "bakery"}
        elif url.endswith("/sendMessage"):
            assert request_data is not None
            values = request_data.json_parameters
            self.sent.append((values["text"], values.get("reply_markup")))
            result = message(1, values["text"])
        return 200, json.dumps({"ok": True, "result": result}).encode()


def message(number: int, text: str, user: int = 7) -> dict[str, Any]:
    person = {"id": user, "is_bot": False, "first_name": "Ada"}
    at = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    found = {
        "message_id": number,
        "date": at,
        "chat": {"id": user, "type": "private"},
        "from": person,
        "text": text,
    }
    if text.startswith("/"):
        found["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text)}]
    return found


class Bakery:
    """The application, and what it was told."""

    def __init__(self, application: Application[Any, Any, Any, Any, Any, Any], telegram: Telegram) -> None:
        self.application = application
        self.telegram = telegram
        self.errors: list[Exception] = []
        self.pressed: list[object] = []
        self._number = 0

    async def say(self, text: str, user: int = 7) -> None:
        self._number += 1
        await self.feed({"update_id": self._number, "message": message(self._number, text, user)})

    async def press(self, data: str) -> None:
        person = message(1, "")["from"]
        query = {
            "id": "1",
            "from": person,
            "chat_instance": "1",
            "data": data,
            "message": message(1, "Which?"),
        }
        await self.feed({"update_id": 1000, "callback_query": query})

    async def feed(self, update: dict[str, Any]) -> None:
        bot = self.application.bot
        received = Update.de_json(update, bot)
        bot.insert_callback_data(received)  # as an Updater does
        await self.application.process_update(received)

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.telegram.sent]


@asynccontextmanager
async def running(storage: AsyncStorage, telegram: Telegram, **options: Any) -> AsyncIterator[Bakery]:
    """An application between `initialize` and `shutdown`, which writes what has changed."""

    async def order(update: Any, context: Any) -> int:
        context.user_data["orders"] = context.user_data.get("orders", 0) + 1
        context.chat_data["last"] = "order"
        context.bot_data.setdefault("users", []).append(update.effective_user.id)
        await update.message.reply_text("Your name?")
        return NAME

    async def name(update: Any, context: Any) -> int:
        context.user_data["name"] = update.message.text
        await update.message.reply_text("What size?")
        return SIZE

    async def size(update: Any, context: Any) -> int:
        await update.message.reply_text(f"A {update.message.text} cake for {context.user_data['name']}")
        return ConversationHandler.END

    async def born(update: Any, context: Any) -> None:
        context.user_data["born"] = date(2000, 1, 1)

    async def menu(update: Any, context: Any) -> None:
        button = InlineKeyboardButton("Cake", callback_data={"cake": 1})
        await update.message.reply_text("Which?", reply_markup=InlineKeyboardMarkup([[button]]))

    async def pressed(update: Any, context: Any) -> None:
        bakery.pressed.append(update.callback_query.data)

    async def note(update: Any, context: Any) -> None:
        bakery.errors.append(context.error)

    application = (
        ApplicationBuilder()
        .token(f"{telegram.id}:secret")
        .request(telegram)
        .get_updates_request(telegram)
        .updater(None)
        .arbitrary_callback_data(True)
        .persistence(TelegramPersistence(storage, **options))
        .build()
    )
    text = filters.TEXT & ~filters.COMMAND
    application.add_handler(
        ConversationHandler(
            [CommandHandler("order", order)],
            {NAME: [MessageHandler(text, name)], SIZE: [MessageHandler(text, size)]},
            [],
            name="order",
            persistent=True,
        )
    )
    application.add_handler(CommandHandler("born", born))
    application.add_handler(CommandHandler("menu", menu))
    application.add_handler(CallbackQueryHandler(pressed))
    application.add_error_handler(note)
    bakery = Bakery(application, telegram)
    async with application:
        yield bakery


def sessions(storage: Storage) -> dict[str, Any]:
    return {session.user_id: session.data for session in storage.sessions.list(limit=1000)}


def test_a_restart_in_the_middle_of_a_conversation(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        telegram = Telegram()
        async with open_async_storage(**settings) as storage, running(storage, telegram) as bakery:
            await bakery.say("/order")
            await bakery.say("Ada")
            await bakery.say("/order", user=8)
        stored = sessions(outside)
        del stored["telegram:42:callbacks"]
        assert stored == {
            "telegram:42:bot": {"users": [7, 8]},
            "telegram:42:chat:7": {"last": "order"},
            "telegram:42:chat:8": {"last": "order"},
            'telegram:42:conversation:["order",7,7]': SIZE,
            'telegram:42:conversation:["order",8,8]': NAME,
            "telegram:42:user:7": {"name": "Ada", "orders": 1},
            "telegram:42:user:8": {"orders": 1},
        }
        async with open_async_storage(**settings) as storage, running(storage, telegram) as bakery:
            await bakery.say("large")
            await bakery.say("/order")
            assert bakery.application.bot_data == {"users": [7, 8, 7]}
            assert bakery.application.user_data[7] == {"name": "Ada", "orders": 2}
            await bakery.say("Eve", user=8)
            await bakery.say("small", user=8)
            assert bakery.texts[3:] == [
                "A large cake for Ada", "Your name?", "What size?", "A small cake for Eve",
            ]  # fmt: skip
        assert bakery.errors == []

    asyncio.run(main())
    stored = sessions(outside)
    assert [name for name in stored if "conversation" in name] == ['telegram:42:conversation:["order",7,7]']
    assert stored['telegram:42:conversation:["order",7,7]'] == NAME


def test_the_data_of_keyboards(settings: dict[str, Any]) -> None:
    async def main() -> None:
        telegram = Telegram()
        async with open_async_storage(**settings) as storage, running(storage, telegram) as bakery:
            await bakery.say("/menu")
        [(_, markup)] = telegram.sent
        data = json.loads(str(markup))["inline_keyboard"][0][0]["callback_data"]
        async with open_async_storage(**settings) as storage, running(storage, telegram) as bakery:
            await bakery.press(data)
            assert bakery.pressed == [{"cake": 1}]

    asyncio.run(main())


def test_two_bots_share_a_storage(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with (
            open_async_storage(**settings) as storage,
            running(storage, Telegram(42)) as one,
            running(storage, Telegram(43)) as two,
        ):
            await asyncio.gather(*(bot.say("/order", user) for bot in (one, two) for user in range(1, 11)))
            await one.say("Ada", 1)
        async with open_async_storage(**settings) as storage, running(storage, Telegram(43)) as two:
            assert sorted(two.application.user_data) == [*range(1, 11)]
            assert two.application.user_data[1] == {"orders": 1}

    asyncio.run(main())
    assert len([name for name in sessions(outside) if ":user:" in name]) == 20


def test_an_idle_instance_overwrites_nothing(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as first:
            await first.say("/order")
            await first.application.update_persistence()
            async with open_async_storage(**settings) as other, running(other, Telegram()) as second:
                await second.say("/order", 8)
                await second.say("/menu", 8)
            changed = sessions(outside)
            await first.application.update_persistence()
        assert sessions(outside) == changed

    asyncio.run(main())
    assert sessions(outside)["telegram:42:bot"] == {"users": [7, 8]}


def test_values_that_are_no_json(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            await bakery.say("/order")
            await bakery.application.update_persistence()
            await bakery.say("/born")
            await bakery.say("/order", 8)
            await bakery.application.update_persistence()
            [error] = bakery.errors
            assert str(error).startswith("user_data[7]['born'] holds a date, which is not a JSON value")
            assert sessions(outside)["telegram:42:user:7"] == {"orders": 1}
            assert sessions(outside)["telegram:42:user:8"] == {"orders": 1}
            persistence: Any = bakery.application.persistence
            for call, message in (
                (
                    persistence.update_chat_data(7, {"a": {1: 2}}),
                    r"chat_data\[7\]\['a'\] has the key 1: keys",
                ),
                (persistence.update_chat_data(7, {1: 2}), r"chat_data\[7\] has the key 1: keys must be str"),
                (persistence.update_bot_data({"a": {1, 2}}), r"bot_data\['a'\] holds a set"),
                (persistence.update_bot_data(7), "bot_data must be a dict, not 7"),
                (
                    persistence.update_conversation("order", (7, 7), filters.TEXT),
                    r"'order' \(7, 7\) holds a Text",
                ),
                (
                    persistence.update_callback_data(([("a", 1.0, {"b": object()})], {})),
                    r"^callback_data <object .*> holds an object",
                ),
            ):
                with pytest.raises(InvalidValue, match=message):
                    await call
            bakery.application.user_data[7].clear()

    asyncio.run(main())


def test_dropped_data(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            await bakery.say("/order")
            await bakery.application.update_persistence()
            bakery.application.drop_user_data(7)
            bakery.application.drop_chat_data(7)
        assert bakery.errors == []

    asyncio.run(main())
    assert not any(":user:" in name or ":chat:" in name for name in sessions(outside))


def test_what_is_stored_is_chosen(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        only_users = PersistenceInput(bot_data=False, chat_data=False, callback_data=False)
        async with (
            open_async_storage(**settings) as storage,
            running(storage, Telegram(), store_data=only_users, update_interval=5) as bakery,
        ):
            assert bakery.application.persistence is not None
            assert bakery.application.persistence.update_interval == 5
            await bakery.say("/order")

    asyncio.run(main())
    assert {*sessions(outside)} == {"telegram:42:user:7", 'telegram:42:conversation:["order",7,7]'}


class Outage:
    """While it lasts, no session can be written. Counts the attempts to write one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts = 0
        self.lasts = False
        for method in ("put", "update", "delete"):
            monkeypatch.setattr(AsyncSessions, method, self._failing(getattr(AsyncSessions, method)))

    def _failing(self, method: Any) -> Any:
        async def call(*given: Any, **keywords: Any) -> Any:
            self.attempts += 1
            if self.lasts:
                raise StorageUnavailable("on purpose")
            return await method(*given, **keywords)

        return call


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


def test_what_could_not_be_written_is_written_later(
    settings: dict[str, Any], outside: Storage, outage: Outage
) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            await bakery.say("/order")
            outage.lasts = True
            await bakery.application.update_persistence()
            assert [type(error) for error in bakery.errors] == [StorageUnavailable]
            assert sessions(outside) == {}
            outage.lasts = False
            await bakery.application.update_persistence()
            assert len(sessions(outside)) == 5

    asyncio.run(main())


def test_an_outage_costs_one_attempt_for_each_update(
    settings: dict[str, Any], outside: Storage, outage: Outage
) -> None:
    """Not one for each user, since each attempt may take 10 seconds."""

    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            persistence = bakery.application.persistence
            assert persistence is not None
            for user in range(250):
                await bakery.say("/order", user)
            outage.lasts = True
            for number in (1, 2):
                await bakery.application.update_persistence()
                assert outage.attempts == len(bakery.errors) == number
                await bakery.say("/order")
            for number in (3, 4):
                with pytest.raises(StorageUnavailable):
                    await persistence.flush()
                assert outage.attempts == number
            outage.lasts = False
            await persistence.flush()
            assert len([name for name in sessions(outside) if ":user:" in name]) == 250
            attempts = outage.attempts
            await persistence.flush()
            assert outage.attempts == attempts

    asyncio.run(main())


def test_an_outage_in_which_a_value_is_changed_back(
    settings: dict[str, Any], outside: Storage, outage: Outage
) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            application = bakery.application
            for is_out, value in ((False, 1), (True, 2), (True, 1), (False, 1)):
                outage.lasts = is_out
                application.bot_data["value"] = value
                await application.update_persistence()
            assert sessions(outside)["telegram:42:bot"] == {"value": 1}
        assert sessions(outside)["telegram:42:bot"] == {"value": 1}

    asyncio.run(main())


@pytest.mark.parametrize("without", ["bot_data", "JSON"])
def test_any_update_writes_what_could_not_be_written(
    settings: dict[str, Any], outside: Storage, outage: Outage, without: str
) -> None:
    stored = PersistenceInput(bot_data=without != "bot_data", callback_data=False)

    async def main() -> None:
        async with (
            open_async_storage(**settings) as storage,
            running(storage, Telegram(), store_data=stored) as bakery,
        ):
            await bakery.say("/order", 7)
            outage.lasts = True
            await bakery.application.update_persistence()
            outage.lasts = False
            if without == "JSON":
                bakery.application.bot_data["born"] = date(2000, 1, 1)
            else:
                await bakery.say("/order", 8)
            await bakery.application.update_persistence()
            assert sessions(outside)["telegram:42:user:7"] == {"orders": 1}
            bakery.application.bot_data.clear()

    asyncio.run(main())


def test_retention_keeps_what_the_bot_still_has(
    settings: dict[str, Any], outside: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data of the bot and of keyboards, which is written only when it has changed."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    monkeypatch.setattr(named_values, "ticks", lambda: now[0].timestamp())
    keywords = {**settings, "retention_sessions_days": 30, "clock": lambda: now[0]}

    async def main() -> None:
        telegram = Telegram()
        async with open_async_storage(**keywords) as storage:
            async with running(storage, telegram) as bakery:
                bakery.application.bot_data["admins"] = [7]
            now[0] += timedelta(days=29)
            async with running(storage, telegram) as bakery:  # a start counts as well
                await bakery.application.update_persistence()
                for _ in range(40):
                    now[0] += timedelta(days=1)
                    await storage.prune(force=True)
                    await bakery.application.update_persistence()
                versions = {session.user_id: session.version for session in outside.sessions.list()}
                assert {*versions} == {"telegram:42:bot", "telegram:42:callbacks"}
                await bakery.application.update_persistence()
                assert versions == {session.user_id: session.version for session in outside.sessions.list()}
                outside.sessions.put("telegram:42:bot", {"admins": [8]})
                now[0] += timedelta(days=1)
                await bakery.application.update_persistence()
                assert sessions(outside)["telegram:42:bot"] == {"admins": [8]}  # of another instance

    asyncio.run(main())


def test_what_was_deleted_elsewhere_is_written_again(settings: dict[str, Any], outside: Storage) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            persistence = bakery.application.persistence
            assert persistence is not None
            await persistence.update_bot_data({"a": 1})
            outside.sessions.delete("telegram:42:bot")
            assert await persistence.get_bot_data() == {}
            await persistence.update_bot_data({"a": 1})
            assert sessions(outside)["telegram:42:bot"] == {"a": 1}
            bakery.application.bot_data["a"] = 1

    asyncio.run(main())


def test_a_button_that_is_no_json(settings: dict[str, Any], outside: Storage) -> None:
    def keyboard(data: Any) -> InlineKeyboardMarkup:
        return InlineKeyboardMarkup([[InlineKeyboardButton("Cake", callback_data=data)]])

    async def main() -> None:
        telegram = Telegram()
        async with open_async_storage(**settings) as storage, running(storage, telegram) as bakery:
            for data in ({"cake": 1}, (1, 2), {"cake": 2}, {"at": date(2000, 1, 1)}, {"cake": 3}):
                await bakery.application.bot.send_message(7, "Which?", reply_markup=keyboard(data))
            for _ in range(4):
                await bakery.application.update_persistence()
            assert len(sessions(outside)["telegram:42:callbacks"]["keyboards"]) == 3
            assert [str(error).partition(":")[0] for error in bakery.errors] == [
                "callback_data (1, 2) holds a tuple, which is not a JSON value",
                "callback_data {'at'",
            ]
            await bakery.application.bot.send_message(7, "Which?", reply_markup=keyboard((3,)))
            await bakery.application.update_persistence()
            assert str(bakery.errors[2]).startswith("callback_data (3,) holds a tuple")
            pressed = json.loads(str(telegram.sent[4][1]))["inline_keyboard"][0][0]["callback_data"]
        async with open_async_storage(**settings) as storage, running(storage, telegram) as bakery:
            await bakery.press(pressed)
            assert bakery.pressed == [{"cake": 3}]

    asyncio.run(main())


def test_many_pages(settings: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_async_storage(**settings) as storage, running(storage, Telegram()) as bakery:
            persistence = bakery.application.persistence
            assert persistence is not None
            async with storage.transaction() as tx:
                for number in range(1_001):
                    await tx.sessions.put(f"telegram:42:user:{number}", {"number": number})
                await tx.sessions.put("telegram:42:user;", "another name")
            assert await persistence.get_user_data() == {n: {"number": n} for n in range(1_001)}
            for name in ("a", 'a"', "a,", "é"):
                await persistence.update_conversation(name, (1, "x", -2), [name])
            for name in ("a", 'a"', "a,", "é"):
                assert await persistence.get_conversations(name) == {(1, "x", -2): [name]}

    asyncio.run(main())


def test_without_a_bot(outside: Storage) -> None:
    persistence = TelegramPersistence(AsyncStorage(outside))
    with pytest.raises(InvalidValue, match="has no bot"):
        asyncio.run(persistence.get_bot_data())
