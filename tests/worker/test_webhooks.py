"""What a receiver of webhooks accepts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from starlette.datastructures import Headers

from assistly.storage import (
    ConfigurationError,
    InvalidValue,
    MemoryBackend,
    SqliteBackend,
    Storage,
    open_async_storage,
)
from assistly.worker import signatures
from assistly.worker.signatures import WebhookSecrets, sign, sign_standard
from assistly.worker.webhooks import (
    Delivery,
    InvalidSignature,
    InvalidTimestamp,
    MissingSignature,
    RepeatedWebhook,
    WebhookError,
    verify,
    verify_async,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
BODY = b'{"id":7,"platform":"x","content":"H\xc3\xa9llo","idempotency_key":"message-7"}'
PLAIN = "correct horse battery staple"
SCHEMES = ["standard", "x-assistly"]


def new_secret(number: int) -> str:
    return "whsec_" + base64.b64encode(bytes([number]) * 24).decode()


SECRET, OLD, OTHER = map(new_secret, (1, 2, 3))
(KEY,) = WebhookSecrets(SECRET).standard_keys


def signed(
    scheme: str = "standard",
    *,
    body: bytes = BODY,
    secrets: Any = SECRET,
    id: str = "message-7",
    at: int = AT,
) -> dict[str, str]:
    """The headers of one scheme alone."""
    headers = WebhookSecrets(secrets).headers(id, at, body)
    return {
        name: value
        for name, value in headers.items()
        if name.startswith("webhook-") == (scheme == "standard")
    }


def check(
    headers: Any, body: Any = BODY, secrets: Any = SECRET, *, now: datetime = NOW, **options: Any
) -> Delivery:
    return verify(body, headers, secrets, now=now, **options)


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Storage]:
    backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "a.db")
    with Storage(backend, auto_prune=False) as storage:
        yield storage


class TestTheSchemes:
    def test_the_example_of_the_specification(self) -> None:
        """The value that all its reference libraries are tested with."""
        key, id, body = (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            ('{"test": 2432232314}'),
        )
        headers = {
            "webhook-id": id,
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
        assert WebhookSecrets(key).headers(id, 1614265330, body.encode()).items() >= headers.items()
        now = datetime.fromtimestamp(1614265330, UTC)
        assert check(headers, body, key, now=now) == Delivery(id, now, "standard")

    @pytest.mark.parametrize("body", ["", "{}", BODY.decode(), "[1,\n2]"])
    def test_the_library_of_the_specification_agrees(self, body: str) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        theirs = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(SECRET).sign("msg_1", now, body),
        }
        assert verify(body, theirs, SECRET) == Delivery("msg_1", now, "standard")
        ours = WebhookSecrets([OLD, SECRET]).headers("msg_1", int(now.timestamp()), body.encode())
        for secret in (OLD, SECRET):
            Webhook(secret).verify(body, ours, json_parse=False)

    @pytest.mark.parametrize("padding", ["", "=", "=="])
    def test_a_secret_may_lack_its_padding(self, padding: str) -> None:
        key = b"x" * 25
        secret = "whsec_" + base64.b64encode(key).decode().rstrip("=") + padding
        headers = signed() | {"webhook-signature": sign_standard(key, "message-7", str(AT), BODY)}
        assert check(headers, secrets=secret).scheme == "standard"

    def test_either_scheme_will_do(self) -> None:
        assert check(signed("standard")) == Delivery("message-7", NOW, "standard")
        assert check(signed("x-assistly")) == Delivery("message-7", NOW, "x-assistly")
        assert check(signed("standard") | signed("x-assistly")).scheme == "standard"
        assert check(signed("standard", secrets=OTHER) | signed("x-assistly")).scheme == "x-assistly"
        assert check(signed("x-assistly", secrets=PLAIN), secrets=PLAIN).scheme == "x-assistly"

    def test_a_plain_secret_makes_no_standard_signature(self) -> None:
        headers = signed(secrets=SECRET) | {
            "webhook-signature": sign_standard(PLAIN.encode(), "message-7", str(AT), BODY)
        }
        with pytest.raises(InvalidSignature):
            check(headers, secrets=PLAIN)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda body: body.decode()])
    def test_bodies(self, scheme: str, kind: Callable[[bytes], Any]) -> None:
        assert check(signed(scheme), kind(BODY)).id == "message-7"

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("change", [str.lower, str.upper, str.title, str.swapcase])
    @pytest.mark.parametrize(
        "kind",
        [
            dict,
            httpx.Headers,
            Headers,
            lambda headers: list(headers.items()),
            lambda headers: [(name.encode(), value.encode()) for name, value in headers.items()],
            lambda headers: {name.encode(): value.encode() for name, value in headers.items()},
            lambda headers: message(headers),
        ],
    )
    def test_headers_in_any_case_and_of_any_framework(
        self, scheme: str, change: Callable[[str], str], kind: Callable[[dict[str, str]], Any]
    ) -> None:
        headers = {change(name): f" {value} " for name, value in signed(scheme).items()}
        assert check(kind(headers | {"X-Other": "1"})).id == "message-7"

    def test_the_time_is_that_of_the_machine(self) -> None:
        headers = signed(at=int(datetime.now(UTC).timestamp()))
        assert abs(verify(BODY, headers, SECRET).sent_at - datetime.now(UTC)) < timedelta(minutes=1)
        with pytest.raises(InvalidTimestamp):
            verify(BODY, signed(), SECRET)


def message(headers: dict[str, str]) -> Message:
    made = Message()
    for name, value in headers.items():
        made[name] = value
    return made


class TestForgeries:
    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    def test_every_header_counts(self, name: str) -> None:
        headers = signed()
        with pytest.raises(MissingSignature, match="webhook-id, webhook-timestamp and webhook-signature"):
            check({other: value for other, value in headers.items() if other != name})
        with pytest.raises(MissingSignature):
            check(headers | {name: " "})
        last = headers[name][-2]
        changed = headers[name][:-2] + ("2" if last == "1" else "1") + headers[name][-1]
        with pytest.raises(InvalidSignature):
            check(headers | {name: changed})

    @pytest.mark.parametrize("name", ["X-Assistly-Timestamp", "X-Assistly-Signature"])
    def test_every_header_of_the_other_scheme_counts(self, name: str) -> None:
        headers = signed("x-assistly")
        with pytest.raises(MissingSignature, match="X-Assistly-Timestamp and X-Assistly-Signature"):
            check({other: value for other, value in headers.items() if other != name})
        changed = headers[name][:-1] + ("2" if headers[name][-1] == "1" else "1")
        with pytest.raises(InvalidSignature):
            check(headers | {name: changed})

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], b"", b"\xff", "H\ud800"])
    def test_the_body_counts(self, scheme: str, body: Any) -> None:
        with pytest.raises(InvalidSignature):
            check(signed(scheme), body)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("secret", [OTHER, PLAIN, SECRET + "BBBB", [OTHER, OLD]])
    def test_the_secret_counts(self, scheme: str, secret: Any) -> None:
        with pytest.raises(InvalidSignature):
            check(signed(scheme), secrets=secret)

    def test_nothing_is_signed(self) -> None:
        nothing: list[Any] = [{}, [], {"X-Other": "1"}]
        for headers in nothing:
            with pytest.raises(MissingSignature):
                check(headers)

    @pytest.mark.parametrize(
        "form",
        [
            "{}",
            "v1",
            "v1,",
            "v1{}",
            "v1 {}",
            "v1, {}",
            "v2,{}",
            "v1a,{}",
            "V1,{}",
            ",{}",
            "v1,{},",
            "v1,{}==",
            "v1,\N{LATIN SMALL LETTER E WITH ACUTE}{}",
            "sha256={}",
        ],
    )
    def test_signatures_of_another_form(self, form: str) -> None:
        headers = signed()
        value = headers["webhook-signature"].removeprefix("v1,")
        with pytest.raises(InvalidSignature):
            check(headers | {"webhook-signature": form.format(value)})

    def test_signatures_of_another_encoding(self) -> None:
        headers = signed()
        digest = base64.b64decode(headers["webhook-signature"].removeprefix("v1,"))
        for value in (digest.hex(), base64.b32encode(digest).decode(), digest.hex().upper()):
            with pytest.raises(InvalidSignature):
                check(headers | {"webhook-signature": f"v1,{value}"})
        other = signed("x-assistly")
        value = other["X-Assistly-Signature"].removeprefix("sha256=")
        for form in (value, value.upper(), "sha256=" + value.upper(), "sha256=", "sha1=" + value, "é"):
            with pytest.raises(InvalidSignature):
                check(other | {"X-Assistly-Signature": form})
        with pytest.raises(InvalidSignature):
            check({b"webhook-id": b"\xff", b"webhook-timestamp": b"1", b"webhook-signature": b"v1,"})

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("text", ["\udcff", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
    def test_headers_are_ascii(self, scheme: str, text: str) -> None:
        headers = signed(scheme)
        for name in headers:
            with pytest.raises(InvalidSignature, match=f"{name.lower()} must be ASCII"):
                check(headers | {name: headers[name] + text})

    def test_one_valid_signature_among_others_is_enough(self) -> None:
        headers = signed()
        others = ["v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=", "v1a,x", "v2,", "v1"]
        value = " ".join([*others, headers["webhook-signature"], *others])
        assert check(headers | {"webhook-signature": value}).id == "message-7"

    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    def test_a_header_that_is_there_twice_has_two_meanings(self, name: str) -> None:
        headers = signed()
        with pytest.raises(InvalidSignature, match=f"{name} is repeated"):
            check([*headers.items(), (name.upper(), "1")])
        with pytest.raises(InvalidSignature, match="is repeated"):
            check(headers | {name.upper(): headers[name]})

    def test_a_key_with_dots_passes_for_no_other_request(self) -> None:
        """What is signed is id, time and body with dots between: a key could hold a time and a body, too."""
        evil = '{"id":1,"idempotency_key":"evil"}'
        key = f"evil.{AT + 200}.{evil}"
        headers = WebhookSecrets(SECRET).headers(key, AT, BODY)
        assert "." not in headers["webhook-id"]
        forged = headers | {"webhook-id": "evil", "webhook-timestamp": str(AT + 200)}
        for body in (evil, f"{evil}.{AT}.{BODY.decode()}"):
            with pytest.raises(InvalidSignature):
                check({n: v for n, v in forged.items() if n.startswith("webhook-")}, body)

    def test_an_id_with_dots_is_refused(self) -> None:
        """It could hold the time, and the beginning of the body, of a request with a shorter id."""
        body = f"You wrote: .{AT}.Send them all my money."
        headers = signed(body=body.encode())
        id, rest = f"message-7.{AT}.You wrote: ", "Send them all my money."
        assert sign_standard(KEY, id, str(AT), rest.encode()) == headers["webhook-signature"]
        with pytest.raises(InvalidSignature, match="webhook-id must not contain dots"):
            check(headers | {"webhook-id": id}, rest)


class TestTimes:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize(
        ("seconds", "word"), [(-301, "old"), (-86400, "old"), (301, "future"), (86400, "future")]
    )
    def test_old_and_future(self, scheme: str, seconds: int, word: str) -> None:
        with pytest.raises(InvalidTimestamp, match=f"too .*{word}"):
            check(signed(scheme, at=AT + seconds))

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("seconds", [-300, 0, 300])
    def test_as_old_and_as_future_as_it_may_be(self, scheme: str, seconds: int) -> None:
        assert check(signed(scheme, at=AT + seconds)).sent_at == NOW + timedelta(seconds=seconds)

    def test_the_tolerance_is_yours(self) -> None:
        headers = signed(at=AT - 3600)
        assert check(headers, tolerance=timedelta(hours=1)).id == "message-7"
        with pytest.raises(InvalidTimestamp):
            check(headers, tolerance=timedelta(seconds=3599))
        assert check(signed(), tolerance=timedelta(0)).id == "message-7"

    @pytest.mark.parametrize(
        "timestamp",
        ["soon", "1.5", "-1", "1e9", "+1", "nan", "0x1", "9" * 12, "9" * 400, NOW.isoformat(), "1_0"],
    )
    def test_no_time(self, timestamp: str) -> None:
        key = WebhookSecrets(SECRET).standard_keys[0]
        headers = {
            "webhook-id": "a",
            "webhook-timestamp": timestamp,
            "webhook-signature": sign_standard(key, "a", timestamp, BODY),
        }
        with pytest.raises(InvalidTimestamp):
            check(headers)
        other = {
            "X-Assistly-Timestamp": timestamp,
            "X-Assistly-Signature": sign(SECRET, timestamp, BODY),
        }
        with pytest.raises(InvalidTimestamp):
            check(other)

    def test_a_forged_time_is_a_forgery(self) -> None:
        with pytest.raises(InvalidSignature):
            check(signed(at=AT - 3600) | {"webhook-timestamp": str(AT)})


class TestSecrets:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize(
        "given",
        [
            f"{SECRET} {OLD}",
            f"{OLD},{SECRET}",
            f" {OLD} ,\n{SECRET} ",
            [OLD, SECRET],
            WebhookSecrets([SECRET, OLD]),
        ],
    )
    def test_a_receiver_may_have_several(self, scheme: str, given: Any) -> None:
        for secret in (SECRET, OLD):
            assert check(signed(scheme, secrets=secret), secrets=given).id == "message-7"
        with pytest.raises(InvalidSignature):
            check(signed(scheme, secrets=OTHER), secrets=given)

    def test_a_sender_may_have_several(self) -> None:
        headers = WebhookSecrets(f"{OLD} {SECRET}").headers("message-7", AT, BODY)
        for secret in (OLD, SECRET):
            assert check(headers, secrets=secret).scheme == "standard"
        with pytest.raises(InvalidSignature):
            check(headers, secrets=OTHER)
        assert headers["X-Assistly-Signature"] == sign(OLD, str(AT), BODY)

    def test_a_plain_secret_and_its_successor(self) -> None:
        headers = WebhookSecrets(f"hunter2,{SECRET}").headers("message-7", AT, BODY)
        assert check(headers, secrets="hunter2").scheme == "x-assistly"
        assert check(headers, secrets=SECRET).scheme == "standard"

    @pytest.mark.parametrize("plain", ["hunter2", PLAIN, "a,b", " padded ", "whsec", "x whsec"])
    def test_a_plain_secret_is_one_with_its_spaces_and_commas(self, plain: str) -> None:
        secrets = WebhookSecrets(plain)
        assert (secrets.texts, secrets.standard_keys) == ([plain], [])
        assert WebhookSecrets(plain).headers("a", AT, BODY) == {
            "X-Assistly-Timestamp": str(AT),
            "X-Assistly-Signature": sign(plain, str(AT), BODY),
        }

    @pytest.mark.parametrize(
        "given",
        [
            "",
            [],
            [""],
            [SECRET, ""],
            b"bytes",
            None,
            7,
            [None],
            "\ud800",
            "whsec_",
            "whsec_====",
            "whsec_hunter2!hunter2",
            "whsec_hunter-hunter_2",
            "whsec_hunter!!!!hunter22",
            "whsec_hunter-_-_hunter22",
            "whsec_h\N{LATIN SMALL LETTER E WITH ACUTE}",
            f"{SECRET} whsec_",
            f"hunter2 hunter2 {SECRET}",
        ],
    )
    def test_unusable_ones(self, given: Any) -> None:
        with pytest.raises(ConfigurationError, match="secret") as caught:
            check(signed(), secrets=given)
        with pytest.raises(ConfigurationError):
            WebhookSecrets(given)
        text = f"{caught.value}"
        assert "hunter" not in text
        assert SECRET[6:] not in text
        assert "\n" not in text

    @pytest.mark.parametrize(
        ("length", "is_warned_of"), [(3, True), (23, True), (24, False), (64, False), (65, True)]
    )
    def test_a_key_of_another_length_is_warned_of_once(
        self, length: int, is_warned_of: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        signatures.warn_of_length.cache_clear()
        secret = "whsec_" + base64.b64encode(bytes(length)).decode()
        for _ in range(2):
            assert check(signed(secrets=secret), secrets=secret).scheme == "standard"
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == is_warned_of
        for message in messages:
            assert f"has {length} bytes" in message
            assert "24 to 64" in message
            assert secret[6:] not in message

    def test_a_secret_is_replaced_and_no_request_refused(self) -> None:
        """In the steps of docs/webhooks.md: receivers of either scheme, and one that takes one secret."""
        both = f"{OLD},{SECRET}"
        steps = [(OLD, OLD, OLD), (OLD, both, OLD), (both, both, OLD), (both, both, SECRET)]
        steps += [(SECRET, both, SECRET), (SECRET, SECRET, SECRET)]
        for sender, receiver, library in steps:
            for scheme in SCHEMES:
                check(signed(scheme, secrets=sender), secrets=receiver)
            check(signed("standard", secrets=sender), secrets=library)

    def test_a_plain_secret_is_replaced_by_another(self) -> None:
        for sender, receiver in [
            ("old", "old"),
            ("old", ["old", "new"]),
            ("new", ["old", "new"]),
            ("new", "new"),
        ]:
            check(signed("x-assistly", secrets=sender), secrets=receiver)


class TestRepetitions:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_each_is_accepted_once(self, storage: Storage, scheme: str) -> None:
        assert check(signed(scheme), storage=storage) == Delivery("message-7", NOW, scheme)  # type: ignore[arg-type]
        assert storage.nonces.seen("message-7")
        for at in (AT, AT + 60):  # the very same, and another attempt
            with pytest.raises(RepeatedWebhook) as caught:
                check(signed(scheme, at=at), storage=storage)
            assert (caught.value.delivery.id, caught.value.delivery.sent_at.timestamp()) == ("message-7", at)
        assert check(signed(id="message-8"), storage=storage).id == "message-8"

    def test_under_the_other_scheme_it_is_a_repetition_too(self, storage: Storage) -> None:
        both = signed("standard") | signed("x-assistly")
        assert check(both, storage=storage).scheme == "standard"
        for scheme in SCHEMES:
            with pytest.raises(RepeatedWebhook):
                check(signed(scheme), storage=storage)

    def test_the_header_idempotency_key_is_not_signed_and_counts_for_nothing(self, storage: Storage) -> None:
        check(signed("x-assistly") | {"Idempotency-Key": "one"}, storage=storage)
        with pytest.raises(RepeatedWebhook):
            check(signed("x-assistly") | {"Idempotency-Key": "another"}, storage=storage)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"no json",
            b"[1]",
            b'"id"',
            b"{}",
            b'{"id":true,"idempotency_key":"a"}',
            b'{"id":1}',
            b"[" * 60_000,
            b'{"id":1,"idempotency_key":"\\ud800"}',
            b'{"id":1,"idempotency_key":7}',
            b'{"id":1,"idempotency_key":""}',
            b'{"webhook_id":""}',
            b'{"webhook_id":7}',
            b'{"webhook_id":"a.b"}',
            b'{"webhook_id":"a b"}',
            b'{"webhook_id":"\\ud800"}',
            b"\xff",
        ],
    )
    def test_a_body_of_another_sender_is_known_by_all_that_is_signed(
        self, storage: Storage, body: bytes
    ) -> None:
        delivery = check(signed("x-assistly", body=body), body, storage=storage)
        assert re.fullmatch("sha256-[0-9a-f]{64}", delivery.id)
        with pytest.raises(RepeatedWebhook):
            check(signed("x-assistly", body=body), body, storage=storage)
        check(signed("x-assistly", body=body, at=AT + 1), body, storage=storage)

    @pytest.mark.parametrize(
        ("key", "id"), [(None, "job-7"), ("job-7", "job-7"), ("k.1", "k%2E1"), ("é", "%C3%A9")]
    )
    def test_senders_of_old_send_no_id_in_the_body(self, storage: Storage, key: str | None, id: str) -> None:
        """Their header webhook-id is this."""
        body = json.dumps({"id": 7, "idempotency_key": key}).encode()
        assert check(signed("x-assistly", body=body), body, storage=storage).id == id

    @pytest.mark.parametrize("id", ["a" * 512, "a\tb"])
    def test_any_id_makes_a_nonce(self, storage: Storage, id: str) -> None:
        assert check(signed(id=id), storage=storage).id == id
        with pytest.raises(RepeatedWebhook):
            check(signed(id=id), storage=storage)
        other = id[:-1] + "c"
        assert check(signed(id=other), storage=storage).id == other

    @pytest.mark.parametrize("id", ["a" * 513, "%C3%A9" * 100, "a\0b"])
    @pytest.mark.parametrize("sender", [None, "s" * 500])
    def test_an_id_that_cannot_be_a_key_is_its_hash(
        self, storage: Storage, id: str, sender: str | None
    ) -> None:
        delivery = check(signed(id=id), storage=storage, sender=sender)
        assert delivery.id == "sha256-" + hashlib.sha256(id.encode()).hexdigest()
        storage.queue.schedule("x", "hello", idempotency_key=delivery.id)
        with pytest.raises(RepeatedWebhook):
            check(signed(id=id), storage=storage, sender=sender)
        assert check(signed(id=id + "a"), storage=storage, sender=sender).id != delivery.id

    def test_senders_may_use_the_same_ids(self, storage: Storage) -> None:
        for sender in (None, "one", "two"):
            check(signed(), storage=storage, sender=sender)
            with pytest.raises(RepeatedWebhook):
                check(signed(), storage=storage, sender=sender)

    @pytest.mark.parametrize(
        ("headers", "error"),
        [
            (signed(secrets=OTHER), InvalidSignature),
            (signed(at=AT - 301), InvalidTimestamp),
            ({}, MissingSignature),
        ],
    )
    def test_what_is_refused_uses_up_no_id(
        self, storage: Storage, headers: dict[str, str], error: type[WebhookError]
    ) -> None:
        with pytest.raises(error):
            check(headers, storage=storage)
        assert check(signed(), storage=storage).id == "message-7"

    def test_an_id_is_forgotten_if_the_work_fails(self, storage: Storage) -> None:
        def work() -> None:
            with storage.transaction() as tx:
                check(signed(), storage=tx)
                raise RuntimeError("out of order")

        for _ in range(2):
            with pytest.raises(RuntimeError):
                work()
        assert not storage.nonces.seen("message-7")

    def test_of_many_at_once_one_is_accepted(self, storage: Storage) -> None:
        start, answers = threading.Barrier(8), []

        def receive() -> None:
            start.wait(30)
            try:
                answers.append(check(signed(), storage=storage).id)
            except RepeatedWebhook:
                answers.append("repeated")

        threads = [threading.Thread(target=receive) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["message-7"] + ["repeated"] * 7

    def test_the_nonce_is_as_old_as_the_request_was_received(self, storage: Storage) -> None:
        check(signed(at=AT + 300), storage=storage)
        storage.prune(force=True, now=NOW + timedelta(days=1))
        assert storage.nonces.seen("message-7")
        storage.prune(force=True, now=NOW + timedelta(days=1, seconds=1))
        assert not storage.nonces.seen("message-7")


class TestAsync:
    def test_it_does_the_same(self) -> None:
        async def receive() -> None:
            async with await open_async_storage(engine="memory", auto_prune=False) as storage:
                found = await verify_async(BODY, signed(), SECRET, storage=storage, now=NOW)
                assert found == Delivery("message-7", NOW, "standard")
                with pytest.raises(RepeatedWebhook):
                    await verify_async(BODY, signed(), SECRET, storage=storage, now=NOW)
                with pytest.raises(InvalidSignature):
                    await verify_async(b"", signed(), SECRET, storage=storage, now=NOW)
                async with storage.transaction() as tx:
                    await verify_async(BODY, signed(), SECRET, storage=tx, sender="two", now=NOW)
                assert await storage.nonces.seen("two:message-7")

        asyncio.run(receive())

    def test_an_async_storage_is_not_taken_for_a_storage(self) -> None:
        async def receive() -> None:
            async with await open_async_storage(engine="memory", auto_prune=False) as storage:
                with pytest.raises(InvalidValue, match="verify_async"):
                    check(signed(), storage=storage)

        asyncio.run(receive())


@pytest.mark.parametrize(
    "change",
    [
        {"body": {"id": 7}},
        {"body": None},
        {"headers": None},
        {"headers": 7},
        {"headers": {"webhook-id": 7}},
        {"headers": {"webhook-id": ["a"]}},
        {"headers": [("webhook-id", "a", "b")]},
        {"headers": [7]},
        {"headers": {None: "a"}},
        {"now": NOW.replace(tzinfo=None)},
        {"now": AT},
        {"tolerance": 300},
        {"tolerance": timedelta(-1)},
        {"sender": ""},
        {"sender": 7},
    ],
)
def test_wrong_arguments(change: dict[str, Any]) -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        arguments: dict[str, Any] = {"body": BODY, "headers": signed(), "now": NOW, "storage": storage}
        with pytest.raises(InvalidValue, match=next(iter(change))):
            verify(secrets=SECRET, **(arguments | change))


@pytest.mark.parametrize(
    "headers", [{}, signed(secrets=OTHER), signed("x-assistly", secrets=OTHER), signed(at=1234567890)]
)
def test_messages_are_one_line_and_tell_no_secret(headers: dict[str, str]) -> None:
    key = WebhookSecrets(SECRET).standard_keys[0]
    with pytest.raises(WebhookError) as caught:
        check(headers)
    text = f"{caught.value} {caught.value!r}"
    assert "\n" not in text
    for hidden in (SECRET, SECRET[6:], key.decode("latin-1"), *headers.values()):
        assert hidden not in text
