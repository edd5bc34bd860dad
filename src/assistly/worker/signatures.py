"""The signatures of webhooks, in two schemes, and the secrets that make them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from assistly.storage.errors import ConfigurationError
from assistly.storage.validation import MAX_NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assistly.storage.records import Job

SIGNATURE = "X-Assistly-Signature"
TIMESTAMP = "X-Assistly-Timestamp"

STANDARD_ID = "webhook-id"
STANDARD_TIMESTAMP = "webhook-timestamp"
STANDARD_SIGNATURE = "webhook-signature"

_OURS = "job-"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PREFIX = "whsec_"
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the header X-Assistly-Signature: HMAC-SHA256 of timestamp, a dot and body.

    `assistly.worker.webhooks.verify` checks it. Receivers that do so themselves compare it with
    `hmac.compare_digest`. They should also refuse a timestamp that is more than a few minutes off, and treat
    a request with a known `webhook_id` in its body as a repetition: the headers are not signed.
    """
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def sign_standard(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    """Return a signature of the Standard Webhooks scheme, of which webhook-signature may hold several.

    `key` is what a secret holds as base64 after `whsec_`.
    """
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest.digest()).decode()}"


def job_key(job: Job) -> str:
    """The name that receivers know a job by: the headers Idempotency-Key and webhook-id.

    It is the same for each attempt, and can be an idempotency key: ASCII, at most 512 bytes. It is the job's
    key, percent-encoded. A name that begins with `job-` is made from no such key, since a key that does
    begins with `%6Aob-`. So no key can be the name of a job without one, which is `job-`, the job's id and
    the microseconds of `created_at`: ids begin again in another database, and after a restore. A name that
    would be longer than 512 bytes is `job-sha256-` and the hash of the key.
    """
    key = job.idempotency_key
    if key is None:
        return f"{_OURS}{job.id}-{(job.created_at - _EPOCH) // timedelta(microseconds=1)}"
    name = encoded(key)
    if name.startswith(_OURS):
        name = f"%{ord(name[0]):X}{name[1:]}"
    if len(name) <= MAX_NAME_BYTES:
        return name
    return f"{_OURS}sha256-{hashlib.sha256(key.encode()).hexdigest()}"


def encoded(key: str) -> str:
    """A key of a job, percent-encoded, with `%2E` for dots.

    A dot ends the id in what is signed, so a key with dots could pass for another id, time and body.
    """
    return _without_dots(quote(key, safe=_PLAIN))


def _without_dots(text: str) -> str:
    return text.replace(".", "%2E")


class WebhookSecrets:
    """The secrets of a sender or a receiver.

    `given` is a text as WEBHOOK_SECRET holds it, or several secrets. A text holds several, separated by
    spaces or commas, if one of them begins with `whsec_`; at most one of them may begin otherwise. Those that
    begin with `whsec_` make signatures of Standard Webhooks. All make signatures of the X-Assistly scheme,
    whose key is the whole text. Logs a warning if what follows `whsec_` is not 24 to 64 bytes. Raises
    ConfigurationError for a secret that is empty or no text, and for a `whsec_` without base64.
    """

    def __init__(self, given: str | Iterable[str]) -> None:
        self.texts = _texts(given)
        self.standard_keys = [_standard_key(text) for text in self.texts if text.startswith(_PREFIX)]

    def headers(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The headers that sign a request. `id` is ASCII; its dots become `%2E`, since a dot ends the id.

        X-Assistly-Signature is by the first secret, webhook-signature by all that begin with `whsec_`.
        """
        at, id = str(timestamp), _without_dots(id)
        headers = {TIMESTAMP: at, SIGNATURE: sign(self.texts[0], at, body)}
        if self.standard_keys:
            signatures = [sign_standard(key, id, at, body) for key in self.standard_keys]
            headers |= {
                STANDARD_ID: id,
                STANDARD_TIMESTAMP: at,
                STANDARD_SIGNATURE: " ".join(signatures),
            }
        return headers


def _texts(given: str | Iterable[str]) -> list[str]:
    texts = _separated(given) if isinstance(given, str) else _listed(given)
    if not texts:
        raise ConfigurationError("a webhook needs at least one secret")
    for text in texts:
        try:
            usable = isinstance(text, str) and bool(text.encode())
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise ConfigurationError("the secret of a webhook must be a text, and not empty")
    return texts


def _listed(given: Iterable[str]) -> list[str]:
    try:
        return list(given)
    except TypeError:
        raise ConfigurationError("the secret of a webhook must be a text, or several in a list") from None


def _separated(given: str) -> list[str]:
    parts = re.split(r"[\s,]+", given.strip(" ,\t\r\n"))
    others = sum(not part.startswith(_PREFIX) for part in parts)
    if others == len(parts):
        return [given]
    if others > 1:
        raise ConfigurationError(
            f"of several secrets of a webhook, at most one may begin otherwise than with {_PREFIX}, and it "
            "may hold no space and no comma"
        )
    return parts


def _standard_key(secret: str) -> bytes:
    encoded = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ConfigurationError(
            f"the secret of a webhook that begins with {_PREFIX} must go on with base64 (of 24 to 64 random "
            "bytes)"
        )
    if not 24 <= len(key) <= 64:
        warn_of_length(len(key))
    return key


@cache
def warn_of_length(length: int) -> None:
    """Log that a secret has this many bytes, once: receivers may read their secrets for each request."""
    logging.getLogger("assistly.worker").warning(
        "a secret of a webhook that begins with %s has %s bytes, not 24 to 64: make another with "
        'echo "%s$(openssl rand -base64 32)"',
        _PREFIX,
        length,
        _PREFIX,
    )
