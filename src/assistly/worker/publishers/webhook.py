"""A publisher that sends an HTTP POST for each job, with an idempotency key and a signature."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from assistly.storage.errors import ConfigurationError

from ..publisher import Permanent, Retry, Unknown
from .json_lines import as_line

try:
    import httpx
except ImportError as error:
    raise ConfigurationError(
        f"the publisher webhook needs httpx ({error}): python -m pip install 'assistly[webhook]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage.records import Job

_LONGEST_ANSWER = 64 * 1024
# Raised before any part of the request was sent.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class WebhookPublisher:
    """Sends a job as JSON in a POST to `url`.

    The header Idempotency-Key is the job's key, percent-encoded, or `job-` and its id. It is the same for
    each attempt, so a receiver that honours it never acts twice. With `secret` the request is signed: see
    `sign`. `timeout` (default: 30) and `connect_timeout` (default: 5) are seconds.

    An answer of 2xx means posted, and `id` in a JSON object is the remote id. 429 is Retry, and so is 503 if
    it says when to come back. Other answers of 5xx, and a connection that cannot be made, are failures that
    are retried. Any other answer is Permanent. A time-out or a broken connection after the request was sent
    is Unknown.

    Raises ConfigurationError for a URL that is not http or https, and for an empty secret.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = _checked(url)
        self._secret = _checked_secret(secret)
        # No idle connections are kept: one that the server has just closed would look like one that broke
        # after the request was sent.
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
            limits=httpx.Limits(max_keepalive_connections=0),
            follow_redirects=False,
            transport=transport,
        )

    def __call__(self, job: Job) -> str | None:
        body = as_line(job)
        request = self._client.build_request(
            "POST", self._url, content=body, headers=self._headers(job, body)
        )
        try:
            response = self._client.send(request, stream=True)
            with closing(response):
                answer = _first_bytes(response.iter_bytes())
        except _NOT_SENT as error:
            raise ConnectionError(f"no connection: {_text(error)}") from error
        except httpx.HTTPError as error:
            raise Unknown(f"no complete answer to the request: {_text(error)}") from error
        return _result(response, answer)

    def close(self) -> None:
        """Close the HTTP client."""
        self._client.close()

    def _headers(self, job: Job, body: bytes) -> dict[str, str]:
        key = f"job-{job.id}" if job.idempotency_key is None else job.idempotency_key
        headers = {"Content-Type": "application/json", "Idempotency-Key": quote(key, safe=_PLAIN)}
        if self._secret is not None:
            timestamp = str(int(time.time()))
            headers |= {TIMESTAMP: timestamp, SIGNATURE: sign(self._secret, timestamp, body)}
        return headers


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError("the publisher webhook needs a URL that begins with http:// or https://")
    return parsed


def _checked_secret(secret: str | None) -> str | None:
    if secret is None:
        return None
    try:
        usable = bool(secret.encode())
    except (AttributeError, UnicodeEncodeError):
        usable = False
    if not usable:
        raise ConfigurationError(
            "the secret of the publisher webhook must be a text, and not empty: leave it out to sign nothing"
        )
    return secret


def _first_bytes(chunks: Iterator[bytes]) -> bytes:
    taken = b""
    for chunk in chunks:
        taken += chunk
        if len(taken) > _LONGEST_ANSWER:
            break
    return taken


def _result(response: httpx.Response, answer: bytes) -> str | None:
    status = response.status_code
    if 200 <= status < 300:
        return _remote_id(answer)
    text = f"{status} {response.reason_phrase}: {answer[:200].decode(errors='replace')}"
    after = _retry_after(response.headers)
    if status == 429 or (status == 503 and after is not None):
        raise Retry(text, after=after)
    if status >= 500:
        raise ConnectionError(text)
    raise Permanent(text)


def _remote_id(answer: bytes) -> str | None:
    try:
        value: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    remote_id = value.get("id") if isinstance(value, dict) else None
    return str(remote_id) if type(remote_id) in (str, int) else None


def _retry_after(headers: httpx.Headers) -> float | None:
    """The Retry-After header in seconds, or None. A date in it is compared with the server's Date header."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(float(value), 1e9)
    until = _date(value)
    if until is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):  # the parser raises all of them
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
