"""Who may see the page, and who may make changes."""

from __future__ import annotations

import hmac
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Protocol

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from assistly.storage.errors import ConfigurationError, InvalidValue

SESSION_SECONDS = 12 * 3600
"""How long a browser stays logged in."""

SHORTEST_TOKEN = 16
_LONGEST_NAME = 100

_PORT = re.compile(r":[0-9]*\Z")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_PROXY_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person who may see the page.

    `name` identifies them in the events of their changes (None: the login name of the process). With
    `may_change` (default: False) they may also make changes, if the application allows changes at all.
    """

    name: str | None = None
    may_change: bool = False


Authorize = Callable[[Request], Visitor | Awaitable[Visitor | None] | None]
"""Identifies the visitor of a request; None if access is denied.

A coroutine function runs on the event loop, a plain function on a thread.
"""


class RequestRefused(Exception):
    """The request is refused. The message says why, and what to do."""


class AccessRule(Protocol):
    """A rule for access."""

    has_login: bool
    """Whether people log in on a page of the application, and programs with a header."""

    async def visitor(self, request: Request) -> Visitor | None:
        """The visitor; None if unknown. Raises RequestRefused."""


class LoopbackAccess:
    """Admits people on this machine, who use a loopback address and no proxy."""

    has_login = False

    async def visitor(self, request: Request) -> Visitor | None:
        """A visitor who may make changes. Raises RequestRefused for requests from elsewhere."""
        advice = "set WEB_TOKEN or WEB_READ_TOKEN to give others access"
        if request.client is None or not _is_loopback(request.client.host):
            raise RequestRefused(f"this page is for this machine only: {advice}")
        if any(name in request.headers for name in _PROXY_HEADERS):
            raise RequestRefused(
                f"this request came through a proxy, but the page is for this machine only: {advice}"
            )
        # DNS rebinding: another site can point its own name to 127.0.0.1.
        if _host_name(request.headers.get("host", "")) not in _LOOPBACK_NAMES:
            raise RequestRefused(f"open this page as http://localhost or http://127.0.0.1, or {advice}")
        return Visitor(may_change=True)


class TokenAccess:
    """Admits people with a token: in a session from `log_in`, or in the header `Authorization: Bearer`.

    `token` allows changes, `read_token` is read-only (None: there is no such token). Raises what
    `check_tokens` raises.
    """

    has_login = True

    def __init__(self, token: str | None, read_token: str | None) -> None:
        check_tokens(token, read_token)
        self._tokens = [
            (given, may_change)
            for given, may_change in ((token, True), (read_token, False))
            if given is not None
        ]

    async def visitor(self, request: Request) -> Visitor | None:
        """The visitor with this session or token."""
        given = bearer_token(request)
        if given is not None:
            may_change = self._accepted(given)
            if may_change is None:
                return None
            return Visitor("somebody with WEB_TOKEN" if may_change else None, may_change)
        return self._of_session(request.cookies.get(session_cookie(request), ""))

    def log_in(self, token: str, name: str | None) -> str | None:
        """The value of the cookie of a new session; None if there is no such token.

        Raises InvalidValue for a name that is too long or not printable, and for a missing name if the token
        allows changes.
        """
        may_change = self._accepted(token)
        if may_change is None:
            return None
        if may_change and name is None:
            raise InvalidValue("enter your name: it is recorded with each change")
        if name is not None and not (len(name) <= _LONGEST_NAME and name.isprintable()):
            raise InvalidValue(f"your name must have at most {_LONGEST_NAME} printable characters")
        signer = next(_signer(known) for known, each in self._tokens if each == may_change)
        return signer.dumps([may_change, name])

    def _accepted(self, token: str) -> bool | None:
        """Whether the token allows changes; None if there is no such token."""
        found = None
        for known, may_change in self._tokens:
            if hmac.compare_digest(known.encode(), token.encode(errors="replace")):
                found = may_change
        return found

    def _of_session(self, cookie: str) -> Visitor | None:
        for token, may_change in self._tokens:
            try:
                found = _signer(token).loads(cookie, max_age=SESSION_SECONDS)
            except BadSignature:
                continue
            match found:
                case [bool(claimed), str() | None as name]:
                    return Visitor(name, may_change and claimed)
        return None


class OwnAccess:
    """Admits the visitors that a function of the surrounding application identifies."""

    has_login = False

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize

    async def visitor(self, request: Request) -> Visitor | None:
        """The visitor that the function returns."""
        if inspect.iscoroutinefunction(self._authorize):
            found: Any = await self._authorize(request)
        else:
            found = await run_in_threadpool(self._authorize, request)
            if isinstance(found, Awaitable):
                found = await found
        if found is not None and not isinstance(found, Visitor):
            raise TypeError(f"authorize must return a Visitor or None, not {type(found).__name__}")
        return found


def check_tokens(token: str | None, read_token: str | None) -> None:
    """Raise ConfigurationError for tokens that are too short, equal, or not printable ASCII."""
    for variable, given in (("WEB_TOKEN", token), ("WEB_READ_TOKEN", read_token)):
        if given is not None and len(given) < SHORTEST_TOKEN:
            raise ConfigurationError(
                f"{variable} must have at least {SHORTEST_TOKEN} characters: "
                "python -c 'import secrets; print(secrets.token_urlsafe())' prints a suitable one"
            )
        if given is not None and not (given.isascii() and given.isprintable() and given == given.strip()):
            raise ConfigurationError(
                f"{variable} must have only printable ASCII characters, without leading or trailing spaces"
            )
    if token is not None and token == read_token:
        raise ConfigurationError("WEB_TOKEN and WEB_READ_TOKEN must differ: WEB_READ_TOKEN is read-only")


def bearer_token(request: Request) -> str | None:
    """The token in the Authorization header, which browsers do not add to forms of other sites."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def session_cookie(request: Request) -> str:
    """The name of the cookie of a session.

    Browsers send a cookie to all ports of a host, and to all paths below its own, so each application has its
    own name.
    """
    place = request.headers.get("host", "") + request.scope.get("root_path", "")
    return f"assistly_session_{sha256(place.encode(errors='replace')).hexdigest()[:8]}"


def _signer(token: str) -> URLSafeTimedSerializer:
    # A new token ends the sessions of the old one.
    return URLSafeTimedSerializer(token, salt="assistly.web.session")


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    return _PORT.sub("", host.lower())
