"""A publisher that sends an HTTP POST for each job, with an idempotency key and signatures."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from assistly.storage.errors import ConfigurationError

from ..publisher import NotPosted, Permanent, Retry, StillUnknown, Unknown, WasPosted
from ..signatures import WebhookSecrets, job_key
from .json_lines import as_line

try:
    import httpx
except ImportError as error:
    raise ConfigurationError(
        f"the publisher webhook needs httpx ({error}): python -m pip install 'assistly[webhook]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from assistly.storage.records import Job

    from ..publisher import CheckResult

_PLACEHOLDER = "{idempotency_key}"
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

    The header Idempotency-Key, and `webhook_id` in the JSON, are the job's key, percent-encoded: see
    `job_key`. It is the same for each attempt, so a receiver that honours it never acts twice. With `secret`,
    a text as WEBHOOK_SECRET holds it or several secrets, the request is signed: see `WebhookSecrets`. The
    receiving side is `assistly.worker.webhooks.verify`. `timeout` (default: 30) and `connect_timeout`
    (default: 5) are seconds.

    An answer of 2xx means posted, and `id` in a JSON object is the remote id. 429 is Retry, and so is 503 if
    it says when to come back. Other answers of 5xx, and a connection that cannot be made, are failures that
    are retried. Any other answer is Permanent. A timeout or a broken connection after the request was sent
    is Unknown.

    With `status_url`, `check` asks it whether a job was posted; without, `check` is None. In the URL
    `{idempotency_key}` stands for the header Idempotency-Key, percent-encoded. The request is a GET with the
    same headers as the POST, signed with an empty body. 200 with the JSON `{"status": "posted", "remote_id":
    …}` is WasPosted. 200 with `{"status": "not_posted"}`, and 404, are NotPosted. Any other answer, and none,
    is StillUnknown.

    Raises ConfigurationError for a URL that is not http or https, and for an unusable secret.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | Iterable[str] | None = None,
        status_url: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = _checked(url)
        self._secrets = _checked_secrets(secret)
        self.check: Callable[[Job], CheckResult] | None = None
        if status_url is not None:
            self.check = partial(self._ask, _checked_status_url(status_url))
        # No idle connections are kept: one that the server has just closed would look like one that broke
        # after the request was sent.
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
            limits=httpx.Limits(max_keepalive_connections=0),
            follow_redirects=False,
            transport=transport,
        )

    def __call__(self, job: Job) -> str | None:
        key = job_key(job)
        body = as_line(job, webhook_id=key)
        headers = {"Content-Type": "application/json"} | self._headers(key, body)
        request = self._client.build_request("POST", self._url, content=body, headers=headers)
        try:
            response, answer = self._send(request)
        except _NOT_SENT as error:
            raise ConnectionError(f"no connection: {_text(error)}") from error
        except httpx.HTTPError as error:
            raise Unknown(f"no complete answer to the request: {_text(error)}") from error
        return _result(response, answer)

    def _ask(self, status_url: str, job: Job) -> CheckResult:
        key = job_key(job)
        url = status_url.replace(_PLACEHOLDER, quote(key, safe=""))
        request = self._client.build_request("GET", url, headers=self._headers(key, b""))
        try:
            response, answer = self._send(request)
        except httpx.HTTPError as error:
            return StillUnknown(f"no complete answer from the status URL: {_text(error)}")
        return _status(response, answer)

    def close(self) -> None:
        """Close the HTTP client."""
        self._client.close()

    def _send(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        response = self._client.send(request, stream=True)
        with closing(response):
            return response, _first_bytes(response.iter_bytes())

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        headers = {"Idempotency-Key": key}
        if self._secrets is not None:
            headers |= self._secrets.headers(key, int(time.time()), body)
        return headers


def _checked(url: str) -> httpx.URL:
    parsed = _parsed(url)
    if parsed is None:
        raise ConfigurationError("the publisher webhook needs a URL that begins with http:// or https://")
    return parsed


def _parsed(url: str) -> httpx.URL | None:
    """A URL of http or https; None for anything else."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        return None
    return parsed if parsed.scheme in ("http", "https") and parsed.host else None


def _checked_status_url(url: str) -> str:
    filled = [url.replace(_PLACEHOLDER, text) if isinstance(url, str) else url for text in ("a", "b")]
    one, other = map(_parsed, filled)
    if one is None or other is None:
        raise _wrong_status_url("must begin with http:// or https://")
    if (one.scheme, one.netloc, one.userinfo) != (other.scheme, other.netloc, other.userinfo):
        raise _wrong_status_url(f"may hold {_PLACEHOLDER} in its path and its query alone")
    if set("{}") & set(filled[0]):
        raise _wrong_status_url(f"may hold {_PLACEHOLDER}, and no other braces")
    return url


def _wrong_status_url(what: str) -> ConfigurationError:
    return ConfigurationError(f"WEBHOOK_STATUS_URL: the status URL of the publisher webhook {what}")


def _checked_secrets(secret: str | Iterable[str] | None) -> WebhookSecrets | None:
    if secret is None:
        return None
    if secret == "":
        raise ConfigurationError(
            "WEBHOOK_SECRET: the secret of the publisher webhook must be a text, and not empty: leave it out "
            "to sign nothing"
        )
    try:
        return WebhookSecrets(secret)
    except ConfigurationError as error:
        raise ConfigurationError(f"WEBHOOK_SECRET: {error}") from None


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
    text = _shortened(response, answer)
    after = _retry_after(response.headers)
    if status == 429 or (status == 503 and after is not None):
        raise Retry(text, after=after)
    if status >= 500:
        raise ConnectionError(text)
    raise Permanent(text)


def _status(response: httpx.Response, answer: bytes) -> CheckResult:
    if response.status_code == 404:
        return NotPosted()
    if response.status_code == 200:
        match _object(answer):
            case {"status": "posted", **rest}:
                return WasPosted(_id_of(rest.get("remote_id")))
            case {"status": "not_posted"}:
                return NotPosted()
    return StillUnknown(f"the status URL answered {_shortened(response, answer)}")


def _remote_id(answer: bytes) -> str | None:
    return _id_of(_object(answer).get("id"))


def _object(answer: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    try:
        value: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _id_of(value: object) -> str | None:
    return str(value) if type(value) in (str, int) else None


def _shortened(response: httpx.Response, answer: bytes) -> str:
    return f"{response.status_code} {response.reason_phrase}: {answer[:200].decode(errors='replace')}"


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
