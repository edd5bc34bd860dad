"""examples/telegram_bot.py, with a Telegram of its own: no network."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from assistly.storage import AsyncStorage, JobStatus, StorageUnavailable, open_async_storage
from assistly.worker import AsyncWorker
from examples.telegram_bot import Bot, Conversations, StorageKey, main

CHAT = 77
CHANNEL = "@bakery"
PATIENCE = 60.0
KEY = StorageKey(1, CHAT, CHAT)

Answer = Callable[[dict[str, Any]], Awaitable[httpx.Response]]


class Telegram:
    """Delivers updates until they are confirmed, and takes messages."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, str]] = []
        self.failures: list[Exception | httpx.Response] = []
        self._updates: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    async def say(self, text: str, **changes: Any) -> None:
        message = {"chat": {"id": CHAT}, "from": {"id": CHAT}, "text": text} | changes
        await self.deliver({"message": message})

    async def deliver(self, update: dict[str, Any]) -> None:
        async with self._changed:
            self._updates.append(update | {"update_id": len(self._updates) + 1})
            self._changed.notify_all()

    async def texts(self, number: int, *, to: Any = CHAT) -> list[str]:
        """What was sent there, once that is so many."""

        def texts() -> list[str]:
            return [text for chat, text in self.sent if chat == to]

        async with self._changed:
            enough = self._changed.wait_for(lambda: len(texts()) >= number)
            with suppress(TimeoutError):
                await asyncio.wait_for(enough, PATIENCE)
        assert len(texts()) == number, self.sent
        return texts()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        method, parameters = request.url.path.rpartition("/")[2], json.loads(request.content)
        if method == "getUpdates":
            return await self._hand_out(parameters["offset"])
        assert method == "sendMessage"
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        async with self._changed:
            self.sent.append((parameters["chat_id"], parameters["text"]))
            self._changed.notify_all()
        return result({"message_id": 500 + len(self.sent)})

    async def _hand_out(self, offset: int) -> httpx.Response:
        def waiting() -> list[dict[str, Any]]:
            return [update for update in self._updates if update["update_id"] >= offset]

        async with self._changed:
            await self._changed.wait_for(waiting)
            return result(waiting())


def result(value: Any) -> httpx.Response:
    return httpx.Response(200, text=json.dumps({"ok": True, "result": value}))


def refusal(status: int, **parameters: Any) -> httpx.Response:
    return httpx.Response(status, json={"ok": False, "description": "mutants", "parameters": parameters})


@asynccontextmanager
async def opened(telegram: Telegram) -> AsyncIterator[Bot]:
    transport = httpx.MockTransport(telegram)
    async with (
        open_async_storage() as storage,
        httpx.AsyncClient(transport=transport, base_url="http://telegram/botsecret/") as client,
    ):
        yield Bot(storage, client, 1, CHANNEL, pause=0.01)


@asynccontextmanager
async def polling(bot: Bot) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bot.poll())
        yield
        task.cancel()


Scene = Callable[[Telegram, Bot], Awaitable[None]]


def play(scene: Scene, *, listen: bool = True) -> None:
    async def everything() -> None:
        telegram = Telegram()
        async with opened(telegram) as bot:
            if not listen:
                await scene(telegram, bot)
                return
            async with polling(bot):
                await scene(telegram, bot)

    asyncio.run(everything())


def update(number: int, text: str) -> dict[str, Any]:
    return {"update_id": number, "message": {"chat": {"id": CHAT}, "from": {"id": CHAT}, "text": text}}


async def counts(storage: AsyncStorage) -> dict[str, int]:
    return {status.value: count for status, count in (await storage.queue.counts()).items() if count}


@pytest.mark.usefixtures("engine")
class TestConversation:
    def test_a_post_is_asked_for_and_published(self) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            running = asyncio.create_task(bot.run())
            for text in ("/post", "Fresh bread!", "0"):
                await telegram.say(text)
            assert await telegram.texts(1, to=CHANNEL) == ["Fresh bread!"]
            first, second, third = await telegram.texts(3)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            assert (first, second) == ("What shall I post?", "In how many minutes?")
            assert third.startswith("Post 1 goes out on ")
            [job] = await bot.storage.queue.list()
            assert job.status is JobStatus.POSTED
            assert job.remote_id == str(501 + telegram.sent.index((CHANNEL, "Fresh bread!")))

        play(scene, listen=False)

    def test_it_asks_again_until_it_has_a_time_that_is_free(self) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            other = await bot.storage.queue.schedule("telegram", "Rolls!")
            for text in ("/post", "Bread!", "soon", "-5", "10", "60"):
                await telegram.say(text)
            *_, soon, negative, near, last = await telegram.texts(6)
            assert soon == negative == "A number, please."
            assert near == f"Post {other.id} is too near to that. In how many minutes?"
            assert last.startswith("Post ")
            assert await counts(bot.storage) == {"scheduled": 2}
            assert await Conversations(bot.storage).get_state(KEY) is None
            assert await Conversations(bot.storage).get_data(KEY) == {}

        play(scene)

    def test_other_messages_are_answered_or_ignored(self) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            await telegram.deliver({"edited_message": {}})
            await telegram.deliver({"message": {"chat": {"id": CHAT}, "photo": []}})
            await telegram.say("\ud800")
            await telegram.deliver({"message": {"chat": {"id": CHAT}, "text": "hello"}})
            assert await telegram.texts(2) == ["Send /post for a new post."] * 2

        play(scene)

    def test_a_text_that_cannot_be_stored_is_refused(self) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            for text in ("/post", "half a \ud800", "whole"):
                await telegram.say(text)
            _, refused, taken = await telegram.texts(3)
            assert refused.startswith("I cannot take that: ")
            assert taken == "In how many minutes?"

        play(scene)


@pytest.mark.usefixtures("engine")
class TestDelivery:
    def test_an_update_that_comes_again_changes_nothing(self) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            for number, text in enumerate(("/post", "Bread!", "60"), start=1):
                await bot.handle(update(number, text))
            await bot.handle(update(3, "60"))
            assert telegram.sent[-1] == telegram.sent[-2]
            assert await counts(bot.storage) == {"scheduled": 1}

        play(scene, listen=False)

    def test_one_update_at_once_makes_one_job(self) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            await bot.handle(update(1, "/post"))
            await bot.handle(update(2, "Bread!"))
            await asyncio.gather(*(bot.handle(update(3, "60")) for _ in range(5)))
            assert {text for _, text in telegram.sent[2:]} == {telegram.sent[2][1]}
            assert len(telegram.sent) == 7
            assert await counts(bot.storage) == {"scheduled": 1}

        play(scene, listen=False)

    def test_a_failure_in_the_middle_leaves_the_conversation_where_it_was(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            await bot.handle(update(1, "/post"))
            await bot.handle(update(2, "Bread!"))
            with monkeypatch.context() as patch:
                patch.setattr(Conversations, "set_data", fail)
                with pytest.raises(RuntimeError, match="mutants"):
                    await bot.handle(update(3, "60"))
            assert await counts(bot.storage) == {}
            assert await Conversations(bot.storage).get_state(KEY) == "minutes"
            await bot.handle(update(3, "60"))
            assert await counts(bot.storage) == {"scheduled": 1}

        async def fail(*_: object) -> None:
            raise RuntimeError("mutants")

        play(scene, listen=False)

    def test_it_goes_on_after_failures(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scene(telegram: Telegram, bot: Bot) -> None:
            telegram.failures = [httpx.ReadError("cut off"), refusal(403)]
            transaction = bot.storage.transaction
            with monkeypatch.context() as patch:

                def fail_once() -> Any:
                    patch.setattr(bot.storage, "transaction", transaction)
                    raise StorageUnavailable("mutants")

                patch.setattr(bot.storage, "transaction", fail_once)
                await telegram.say("/post")
                await telegram.say("Bread!")
                assert await telegram.texts(1) == ["In how many minutes?"]

        with caplog.at_level(logging.WARNING):
            play(scene)
        again, also, lost = (record.getMessage() for record in caplog.records if "psycopg" not in record.name)
        assert "mutants" in again
        assert "cut off" in also
        assert "reply to update 1 is lost" in lost


@pytest.mark.usefixtures("engine")
class TestStates:
    def test_they_are_kept_apart(self) -> None:
        async def scene(_: Telegram, bot: Bot) -> None:
            conversations = Conversations(bot.storage)
            await conversations.set_state(KEY, "content")
            await conversations.set_data(KEY, {"draft": [1]})
            assert await conversations.get_state(KEY) == "content"
            assert await conversations.get_data(KEY) == {"draft": [1]}
            for other in (StorageKey(2, CHAT, CHAT), StorageKey(1, CHAT, 5), StorageKey(1, CHAT, CHAT, 9)):
                assert await conversations.get_state(other) is None
                assert await conversations.get_data(other) == {}
            await conversations.set_state(KEY)
            assert await conversations.get_state(KEY) is None
            assert await conversations.get_data(KEY) == {"draft": [1]}
            await conversations.close()

        play(scene, listen=False)

    def test_no_update_is_lost(self) -> None:
        async def scene(_: Telegram, bot: Bot) -> None:
            conversations = Conversations(bot.storage)
            await asyncio.gather(
                *(conversations.update_data(KEY, {f"field {number}": number}) for number in range(20))
            )
            expected = {f"field {number}": number for number in range(20)}
            assert await conversations.get_data(KEY) == expected
            assert await conversations.update_data(KEY, {"field 0": None}) == expected | {"field 0": None}

        play(scene, listen=False)


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("failure", "status", "reason"),
    [
        (httpx.ConnectError("no route"), "retrying", None),
        (httpx.ReadTimeout("silence"), "dead_letter", "outcome unknown: no answer"),
        (refusal(429, retry_after=30), "scheduled", None),
        (refusal(403), "dead_letter", "403: mutants"),
        (httpx.Response(502, text="<html>"), "dead_letter", "outcome unknown: 502"),
        (httpx.Response(200, text="{"), "dead_letter", "outcome unknown: 200"),
    ],
)
def test_a_publisher_says_what_happened(
    engine: str, failure: Exception | httpx.Response, status: str, reason: str | None
) -> None:
    async def scene(telegram: Telegram, bot: Bot) -> None:
        telegram.failures = [failure]
        job = await bot.storage.queue.schedule("telegram", "Bread!")
        await AsyncWorker(bot.storage, {"telegram": bot.publish}).run_until_idle()
        found = await bot.storage.queue.get(job.id)
        assert found is not None
        assert found.status == status
        if reason is None:
            assert found.dead_letter_reason is None
        else:
            assert str(found.dead_letter_reason).startswith(reason)
        assert "secret" not in f"{found.dead_letter_reason} {found.last_error}"
        assert telegram.sent == []

    play(scene, listen=False)


def test_without_its_token_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELEGRAM_TOKEN", raising=False)
    monkeypatch.setenv("TELEGRAM_CHANNEL", "@bakery")
    with pytest.raises(SystemExit, match="set TELEGRAM_TOKEN"):
        asyncio.run(main())
