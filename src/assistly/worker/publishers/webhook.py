"""A publisher that sends an HTTP POST per job, with an idempotency key and signatures."""

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
        f"the webhook publisher needs httpx ({error}): python -m pip install 'assistly[webhook]'"
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
    `job_key`. They are the same for each attempt, so a receiver that honours the key never acts twice. With
    `secret`, a str in the format of WEBHOOK_SECRET or several secrets, the request is signed: see
    `WebhookSecrets`. Receivers verify it with `assistly.worker.webhooks.verify`. `timeout` (default: 30) and
    `connect_timeout` (default: 5) are in seconds.

    A 2xx response means posted; `id` in a JSON object is the remote id. 429 is Retry, and so is 503 with a
    Retry-After header. Other 5xx responses, and failed connections, are failures that are retried. Any other
    response is Permanent. A timeout or a broken connection after the request was sent is Unknown.

    With `status_url`, `check` asks this URL whether a job was posted; without it, `check` is None. In the
    URL, `{idempotency_key}` stands for the header Idempotency-Key, percent-encoded. The request is a GET with
    the same headers as the POST, signed with an empty body. 200 with the JSON `{"status": "posted",
    "remote_id": …}` is WasPosted. 200 with `{"status": "not_posted"}`, and 404, are NotPosted. Any other
    response, or none, is StillUnknown.

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
        # Keeps no idle connections: one that the server has just closed would look like one that broke after
        # the request was sent.
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
            raise Unknown(f"no complete response to the request: {_text(error)}") from error
        return _result(response, answer)

    def _ask(self, status_url: str, job: Job) -> CheckResult:
        key = job_key(job)
        url = status_url.replace(_PLACEHOLDER, quote(key, safe=""))
        request = self._client.build_request("GET", url, headers=self._headers(key, b""))
        try:
            response, answer = self._send(request)
        except httpx.HTTPError as error:
            return StillUnknown(f"no complete response from the status URL: {_text(error)}")
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
        raise ConfigurationError("the webhook publisher needs a URL that begins with http:// or https://")
    return parsed


def _parsed(url: str) -> httpx.URL | None:
    """An http or https URL; None for anything else."""
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
        raise _wrong_status_url(f"may have {_PLACEHOLDER} only in its path and its query")
    if set("{}") & set(filled[0]):
        raise _wrong_status_url(f"may have {_PLACEHOLDER}, and no other braces")
    return url


def _wrong_status_url(what: str) -> ConfigurationError:
    return ConfigurationError(f"WEBHOOK_STATUS_URL: the status URL of the webhook publisher {what}")


def _checked_secrets(secret: str | Iterable[str] | None) -> WebhookSecrets | None:
    if secret is None:
        return None
    if secret == "":
        raise ConfigurationError(
            "WEBHOOK_SECRET: the secret of the webhook publisher must be a non-empty str: omit it to sign "
            "nothing"
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
    return StillUnknown(f"the status URL responded with {_shortened(response, answer)}")


def _remote_id(answer: bytes) -> str | None:
    return _id_of(_object(answer).get("id"))


def _object(answer: bytes) -> dict[str, Any]:
    """A JSON object; an empty dict for anything else."""
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
    """The Retry-After header in seconds, or None. A date is compared with the Date header of the server."""
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
