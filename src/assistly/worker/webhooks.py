"""The receiving side of webhooks: verifies the sender of a request, and detects repeated requests."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from assistly.storage import validation as check
from assistly.storage.clock import system_clock
from assistly.storage.errors import InvalidValue

from .signatures import (
    SIGNATURE,
    STANDARD_ID,
    STANDARD_SIGNATURE,
    STANDARD_TIMESTAMP,
    TIMESTAMP,
    WebhookSecrets,
    encoded,
    sign,
    sign_standard,
)

if TYPE_CHECKING:
    from assistly.storage import AsyncStorage, Storage

TOLERANCE = timedelta(minutes=5)

Text = str | bytes


class HasItems(Protocol):
    """A mapping of headers, or another object with their names and values in `items`."""

    def items(self) -> Iterable[tuple[Text, Text]]:
        """The pairs of a name and a value."""


Headers = HasItems | Iterable[tuple[Text, Text]]
"""The headers of a request, with case-insensitive names: a mapping, or pairs as in ASGI."""

_READ = {name.lower() for name in (SIGNATURE, TIMESTAMP, STANDARD_ID, STANDARD_SIGNATURE, STANDARD_TIMESTAMP)}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request with a valid signature.

    `id` is the same for every attempt of the sender, and can be an idempotency key. It is the header
    webhook-id. In the scheme x-assistly it is the same text, from the body; for a body without it, it is a
    hash of everything that is signed, which differs in each attempt. An id that is too long for a key is
    hashed. `sent_at` is the time of this attempt.
    """

    id: str
    sent_at: datetime
    scheme: Literal["standard", "x-assistly"]


class WebhookError(Exception):
    """The base class of the reasons to refuse a webhook. No message contains a secret or a signature."""


class MissingSignature(WebhookError):
    """The request lacks a header that its scheme requires."""


class InvalidSignature(WebhookError):
    """No signature of the request was made with one of the secrets."""


class InvalidTimestamp(WebhookError):
    """The signature is valid, but too old or from the future."""


class RepeatedWebhook(WebhookError):
    """The signature is valid, but a request with this id was already accepted.

    `delivery` is the repeated request. The sender may have retried because the response to its first attempt
    was lost: respond with success, and do nothing.
    """

    def __init__(self, delivery: Delivery) -> None:
        super().__init__("the webhook was already accepted")
        self.delivery = delivery


def verify(
    body: Text,
    headers: Headers,
    secrets: WebhookSecrets | str | Iterable[str],
    *,
    storage: Storage | None = None,
    sender: str | None = None,
    tolerance: timedelta = TOLERANCE,
    now: datetime | None = None,
) -> Delivery:
    """Verify a request that is signed by Standard Webhooks or the X-Assistly scheme, and return its
    `Delivery`.

    `body` is the body as it was received: a body that was parsed and serialized again has another signature.
    `secrets` is a str in the format of WEBHOOK_SECRET, several secrets, or a `WebhookSecrets`; one of the
    signatures must be made with one of them. The signed time may be `tolerance` (default: 5 minutes) before
    or after `now` (default: the clock of this machine).

    With a `storage`, the id of the delivery is registered as a nonce, so that only one of any number of
    requests with this id is accepted. Pass the `tx` of a transaction, and do the work in it: if the work
    fails, the id is not registered, and the sender's next attempt is accepted. `sender` and a colon are
    prefixed to the id, so that senders that share a storage may use the same ids.

    Raises MissingSignature, InvalidSignature, InvalidTimestamp or RepeatedWebhook; ConfigurationError for an
    unusable secret; InvalidValue for arguments of the wrong type; and the errors of the storage.
    """
    delivery = _verified(body, headers, secrets, tolerance, now)
    if storage is not None:
        is_new: object = storage.nonces.register(_nonce(delivery, sender), now)
        if isinstance(is_new, CoroutineType):
            is_new.close()
            raise InvalidValue("storage must be a Storage: for an AsyncStorage call verify_async")
        _require_new(delivery, is_new=bool(is_new))
    return delivery


async def verify_async(
    body: Text,
    headers: Headers,
    secrets: WebhookSecrets | str | Iterable[str],
    *,
    storage: AsyncStorage,
    sender: str | None = None,
    tolerance: timedelta = TOLERANCE,
    now: datetime | None = None,
) -> Delivery:
    """Verify a request like `verify`, with an `AsyncStorage` or the `tx` of its transaction."""
    delivery = _verified(body, headers, secrets, tolerance, now)
    _require_new(delivery, is_new=await storage.nonces.register(_nonce(delivery, sender), now))
    return delivery


def _verified(
    body: Text,
    headers: Headers,
    secrets: WebhookSecrets | str | Iterable[str],
    tolerance: timedelta,
    now: datetime | None,
) -> Delivery:
    tolerance = check.duration("tolerance", tolerance, zero=True)
    at = check.optional_utc("now", now) or system_clock()
    signed = _bytes(body)
    known = secrets if isinstance(secrets, WebhookSecrets) else WebhookSecrets(secrets)
    id, timestamp, scheme = _authentic(signed, _read(headers), known)
    sent_at = _time(timestamp)
    if abs(at - sent_at) > tolerance:
        side = "old" if sent_at < at else "far in the future"
        raise InvalidTimestamp(
            f"the webhook is too {side}: it was signed at {sent_at:%Y-%m-%dT%H:%M:%SZ}, and it is now "
            f"{at:%Y-%m-%dT%H:%M:%SZ}"
        )
    return Delivery(_fitting(id), sent_at, scheme)


def _bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode(errors="surrogatepass")
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise InvalidValue(f"body must be the bytes or the str that was received, not a {type(body).__name__}")


def _read(headers: Any) -> dict[str, str]:
    """The headers of both schemes that are present, by their lower-case names."""
    found: dict[str, str] = {}
    try:
        for name, value in headers.items() if hasattr(headers, "items") else headers:
            lower = _decoded(name).lower()
            if lower not in _READ:
                continue
            if lower in found:
                raise InvalidSignature(f"the header {lower} is repeated")
            found[lower] = _decoded(value).strip()
            if not found[lower].isascii():
                raise InvalidSignature(f"the header {lower} must be ASCII")
    except (TypeError, ValueError, AttributeError):
        raise InvalidValue("headers must be a mapping of names to values, or pairs of both") from None
    return {name: value for name, value in found.items() if value}


def _decoded(text: Text) -> str:
    return text if isinstance(text, str) else text.decode("latin-1")


def _authentic(
    body: bytes, headers: dict[str, str], secrets: WebhookSecrets
) -> tuple[str, str, Literal["standard", "x-assistly"]]:
    """The id, the timestamp and the scheme of a valid signature."""
    complete = False
    match [headers.get(name) for name in (STANDARD_ID, STANDARD_TIMESTAMP, STANDARD_SIGNATURE)]:
        case [str(id), str(at), str(given)]:
            if "." in id:  # the signature could be that of a request with a shorter id and a longer body
                raise InvalidSignature(f"the header {STANDARD_ID} must not contain dots")
            expected = [sign_standard(key, id, at, body) for key in secrets.standard_keys]
            if _has_equal(given.split(), expected):
                return id, at, "standard"
            complete = True
    match [headers.get(name.lower()) for name in (TIMESTAMP, SIGNATURE)]:
        case [str(at), str(given)]:
            if _has_equal([given], [sign(secret, at, body) for secret in secrets.texts]):
                return _id_in(body, at), at, "x-assistly"
            complete = True
    if complete:
        raise InvalidSignature("the signature is wrong: the secret differs, or the request was changed")
    raise MissingSignature(
        f"the webhook is not signed: it needs {STANDARD_ID}, {STANDARD_TIMESTAMP} and {STANDARD_SIGNATURE}, "
        f"or {TIMESTAMP} and {SIGNATURE}"
    )


def _has_equal(given: Iterable[str], expected: Iterable[str]) -> bool:
    """Whether one of the given is one of the expected, compared in constant time."""
    wanted = [text.encode() for text in expected]
    found = False
    for text in given:
        for other in wanted:
            found |= hmac.compare_digest(text.encode(), other)
    return found


def _id_in(body: bytes, timestamp: str) -> str:
    """The id of the delivery, from the signed parts: the header Idempotency-Key is not signed."""
    try:
        sent: Any = json.loads(body)
        id = sent["webhook_id"] if "webhook_id" in sent else _id_of_old(sent["id"], sent["idempotency_key"])
        if isinstance(id, str) and re.fullmatch(r"[!-~]+", id) and "." not in id:
            return id
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # not sent by the webhook publisher
    return _hash(timestamp.encode() + b"." + body)


def _id_of_old(id: object, key: object) -> str | None:
    """The header webhook-id of versions whose JSON did not contain it."""
    if type(id) is not int or not isinstance(key, str | None):
        return None
    return f"job-{id}" if key is None else encoded(key)


def _time(timestamp: str) -> datetime:
    if not re.fullmatch("[0-9]{1,11}", timestamp):
        raise InvalidTimestamp("the timestamp of the webhook must be a number of seconds since 1970")
    return datetime.fromtimestamp(int(timestamp), UTC)


def _nonce(delivery: Delivery, sender: str | None) -> str:
    return delivery.id if sender is None else _fitting(f"{check.name('sender', sender)}:{delivery.id}")


def _fitting(id: str) -> str:
    """The id, or its hash if the id cannot be the key of a record."""
    if len(id.encode()) <= check.MAX_NAME_BYTES and "\0" not in id:
        return id
    return _hash(id.encode())


def _hash(data: bytes) -> str:
    return "sha256-" + hashlib.sha256(data).hexdigest()


def _require_new(delivery: Delivery, *, is_new: bool) -> None:
    if not is_new:
        raise RepeatedWebhook(delivery)
