"""The fields of forms, and the protection against forged forms (CSRF)."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from .access import RequestRefused

if TYPE_CHECKING:
    from starlette.requests import Request

FORM_COOKIE = "assistly_form"
"""The cookie with a random token, which every form repeats."""

FORM_FIELD = "form"

_MOST_BYTES = 1 << 20
_MOST_FIELDS = 10_000
_SECONDS = 10.0
"""How long a form may take to arrive."""

Fields = dict[str, list[str]]


class TooLarge(Exception):
    """The body of the request is larger than any form."""


async def read_fields(request: Request) -> Fields:
    """Read the fields of a form.

    Raises TooLarge, TimeoutError if it does not arrive in time, and RequestRefused for anything but a form of
    the page.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise RequestRefused("send the form as application/x-www-form-urlencoded")
    body = b""
    async with asyncio.timeout(_SECONDS):
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise TooLarge
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise RequestRefused("cannot read the form") from None


def hidden_value(identifier: str) -> str:
    """The value of a hidden field for an identifier: itself, or JSON if a browser might change it."""
    is_plain = identifier.isprintable() and identifier == identifier.strip() and identifier[:1] != '"'
    return identifier if is_plain else json.dumps(identifier)


def identifier_of(value: str) -> str:
    """The identifier in the value of a hidden field."""
    if value[:1] == '"':
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, str) else value
    return value


def new_form_token() -> str:
    """A random token for `FORM_COOKIE`."""
    return secrets.token_urlsafe(24)


def require_own_form(request: Request, fields: Fields) -> None:
    """Raise RequestRefused unless the form was sent by this page.

    The browser tells where the form comes from (Sec-Fetch-Site, Origin), and the form repeats the token in
    the cookie, which other sites can neither read nor set.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise RequestRefused("this form was sent from another site: nothing was changed")
    origin, host = request.headers.get("origin"), request.headers.get("host")
    # Behind a proxy with TLS, the scheme of the request may be http.
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise RequestRefused("this form was sent from another site: nothing was changed")
    expected = request.cookies.get(FORM_COOKIE, "")
    given = (fields.get(FORM_FIELD) or [""])[0]
    if not expected or not hmac.compare_digest(expected.encode(), given.encode(errors="replace")):
        raise RequestRefused("this form has expired, or the browser blocks cookies: reload the page")
