"""Who may look at the page, and who may change what it shows."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request

from assistly.storage.errors import ConfigurationError, InvalidValue

if TYPE_CHECKING:
    from starlette.types import Scope

SESSION_SECONDS = 12 * 3600
"""How long a browser stays logged in."""

SESSION_COOKIE = "assistly_session"

SHORTEST_TOKEN = 16

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
    """Somebody who may look at the page.

    `name` is who they are, for the events of what they change (None: the login that the process runs under).
    With `may_change` they may also change things, if the application allows changes at all.
    """

    name: str | None = None
    may_change: bool = False


Authorize = Callable[[Request], Visitor | Awaitable[Visitor | None] | None]
"""Tells from a request who is looking; None if nobody may. It may be a coroutine function."""


class RequestRefused(Exception):
    """The request is not answered. The message says why, and what to do."""


class AccessRule(Protocol):
    """A rule for who is let in."""

    has_login: bool
    """Whether people log in on a page of the application, and programs with a header."""

    async def visitor(self, request: Request) -> Visitor | None:
        """Who looks; None if it is not known. Raises RequestRefused."""


class LoopbackAccess:
    """Lets in whoever works on this machine, and reaches it directly and by a name of its own."""

    has_login = False

    async def visitor(self, request: Request) -> Visitor | None:
        """Somebody who may change things. Raises RequestRefused for requests from elsewhere."""
        advice = "set WEB_TOKEN or WEB_READ_TOKEN to let others in"
        if request.client is None or not _is_loopback(request.client.host):
            raise RequestRefused(f"this page is for this machine only: {advice}")
        if any(name in request.headers for name in _PROXY_HEADERS):
            raise RequestRefused(
                f"this request comes through a proxy, and the page is for this machine only: {advice}"
            )
        # A web page elsewhere can give its own name the address 127.0.0.1.
        if _host_name(request.headers.get("host", "")) not in _LOOPBACK_NAMES:
            raise RequestRefused(f"open this page as http://localhost or http://127.0.0.1, or {advice}")
        return Visitor(may_change=True)


class TokenAccess:
    """Lets in who has a token: in a session that `log_in` began, or in the header `Authorization: Bearer`.

    `token` lets people look and change, `read_token` lets them only look (None: there is no such token).
    Raises ConfigurationError for tokens that are too short, equal, or no visible characters.
    """

    has_login = True

    def __init__(self, token: str | None, read_token: str | None) -> None:
        for variable, given in (("WEB_TOKEN", token), ("WEB_READ_TOKEN", read_token)):
            if given is not None and len(given) < SHORTEST_TOKEN:
                raise ConfigurationError(
                    f"{variable} must have at least {SHORTEST_TOKEN} characters: "
                    "python -c 'import secrets; print(secrets.token_urlsafe())' prints a good one"
                )
            if given is not None and not (given.isprintable() and given == given.strip()):
                raise ConfigurationError(
                    f"{variable} must not have spaces around it, nor characters that cannot be typed"
                )
        if token is not None and token == read_token:
            raise ConfigurationError("WEB_TOKEN and WEB_READ_TOKEN must differ: one of them may only look")
        self._tokens = [
            (given, may_change)
            for given, may_change in ((token, True), (read_token, False))
            if given is not None
        ]

    async def visitor(self, request: Request) -> Visitor | None:
        """Whose session or token it is."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            may_change = self._accepted(given.strip())
            if may_change is None:
                return None
            return Visitor("somebody with WEB_TOKEN" if may_change else None, may_change)
        return self._of_session(request.cookies.get(SESSION_COOKIE, ""))

    def log_in(self, token: str, name: str | None) -> str | None:
        """The value of the cookie of a new session; None if there is no such token.

        Raises InvalidValue if there is no name, and the token lets people change things.
        """
        may_change = self._accepted(token)
        if may_change is None:
            return None
        if may_change and name is None:
            raise InvalidValue("enter your name, too: it is recorded with each change")
        signer = next(_signer(known) for known, each in self._tokens if each == may_change)
        return signer.dumps([may_change, name])

    def _accepted(self, token: str) -> bool | None:
        """Whether the token lets people change things; None if there is no such token."""
        found = None
        for known, may_change in self._tokens:
            if hmac.compare_digest(known.encode(), token.encode(errors="replace")):
                found = may_change
        return found

    def _of_session(self, cookie: str) -> Visitor | None:
        for token, may_change in self._tokens:
            try:
                claimed, name = _signer(token).loads(cookie, max_age=SESSION_SECONDS)
            except BadSignature:
                continue
            return Visitor(name, may_change and claimed)
        return None


class OwnAccess:
    """Lets in whom a function of the surrounding application lets in."""

    has_login = False

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize

    async def visitor(self, request: Request) -> Visitor | None:
        """Whom the function names."""
        found: Any = self._authorize(request)
        if isinstance(found, Awaitable):
            found = await found
        if found is not None and not isinstance(found, Visitor):
            raise TypeError(f"authorize must return a Visitor or None, and returned {type(found).__name__}")
        return found


def is_bearer(scope: Scope) -> bool:
    """Whether a token is in a header, which no browser adds to a form of another site."""
    return any(
        name == b"authorization" and value.lower().startswith(b"bearer ") for name, value in scope["headers"]
    )


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
