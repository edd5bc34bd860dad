"""The signatures of webhooks, in two schemes, and their secrets."""

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

    `assistly.worker.webhooks.verify` checks it. If you check it yourself, compare with `hmac.compare_digest`,
    refuse a timestamp that is more than a few minutes off, and treat a request with a known `webhook_id` in
    its body as repeated: the headers are not signed.
    """
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def sign_standard(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    """Return a signature of the Standard Webhooks scheme. The header webhook-signature may hold several.

    `key` is the decoded base64 of a secret, after `whsec_`.
    """
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest.digest()).decode()}"


def job_key(job: Job) -> str:
    """The name of a job for receivers: the headers Idempotency-Key and webhook-id.

    It is the same for each attempt, and can be an idempotency key: ASCII, at most 512 bytes. It is the job's
    key, percent-encoded; a key that begins with `job-` becomes `%6Aob-…`. A job without a key is named
    `job-`, its id and the microseconds of `created_at`, since ids start again in another database and after a
    restore. So no key can equal the name of a job without one. A name that would be longer than 512 bytes
    becomes `job-sha256-` and the hash of the key.
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
    """The key of a job, percent-encoded, with `%2E` for dots.

    A dot ends the id in the signed text, so a key with dots could pass for another id, time and body.
    """
    return _without_dots(quote(key, safe=_PLAIN))


def _without_dots(text: str) -> str:
    return text.replace(".", "%2E")


class WebhookSecrets:
    """The secrets of a sender or a receiver.

    `given` is a str in the format of WEBHOOK_SECRET, or several secrets. A str holds several, separated by
    spaces or commas, if one of them begins with `whsec_`; at most one may have no such prefix. Secrets that
    begin with `whsec_` make signatures of Standard Webhooks. All secrets make signatures of the X-Assistly
    scheme, with the whole str as the key. Logs a warning if what follows `whsec_` is not 24 to 64 bytes.
    Raises ConfigurationError for a secret that is empty or not a str, and for a `whsec_` without base64.
    """

    def __init__(self, given: str | Iterable[str]) -> None:
        self.texts = _texts(given)
        self.standard_keys = [_standard_key(text) for text in self.texts if text.startswith(_PREFIX)]

    def headers(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The headers that sign a request. `id` is ASCII; its dots become `%2E`, since a dot ends the id.

        X-Assistly-Signature uses the first secret, webhook-signature all that begin with `whsec_`.
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
            raise ConfigurationError("the secret of a webhook must be a non-empty str")
    return texts


def _listed(given: Iterable[str]) -> list[str]:
    try:
        return list(given)
    except TypeError:
        raise ConfigurationError("the secret of a webhook must be a str, or a list of several") from None


def _separated(given: str) -> list[str]:
    parts = re.split(r"[\s,]+", given.strip(" ,\t\r\n"))
    others = sum(not part.startswith(_PREFIX) for part in parts)
    if others == len(parts):
        return [given]
    if others > 1:
        raise ConfigurationError(
            f"of several secrets of a webhook, at most one may lack the prefix {_PREFIX}, and it must not "
            "contain spaces or commas"
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
            f"the secret of a webhook that begins with {_PREFIX} must continue with base64 (of 24 to 64 "
            "random bytes)"
        )
    if not 24 <= len(key) <= 64:
        warn_of_length(len(key))
    return key


@cache
def warn_of_length(length: int) -> None:
    """Log once that a secret has this many bytes: receivers may read their secrets for each request."""
    logging.getLogger("assistly.worker").warning(
        "a secret of a webhook that begins with %s has %s bytes, not 24 to 64: create another with "
        'echo "%s$(openssl rand -base64 32)"',
        _PREFIX,
        length,
        _PREFIX,
    )
