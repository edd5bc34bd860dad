"""The fields of forms, and the check that a form comes from the page itself."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from .access import RequestRefused

if TYPE_CHECKING:
    from starlette.requests import Request

FORM_COOKIE = "assistly_form"
"""Has a random text, which every form of the page repeats."""

FORM_FIELD = "form"

_MOST_BYTES = 1 << 20
_MOST_FIELDS = 10_000

Fields = dict[str, list[str]]


class TooLarge(Exception):
    """The body of the request is larger than any form."""


async def read_fields(request: Request) -> Fields:
    """The fields of a form. Raises TooLarge, and RequestRefused for what is no form of ours."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise RequestRefused("send the form as application/x-www-form-urlencoded")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise TooLarge
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise RequestRefused("the form could not be read") from None


def new_form_token() -> str:
    """A random text for `FORM_COOKIE`."""
    return secrets.token_urlsafe(24)


def require_own_form(request: Request, fields: Fields) -> None:
    """Raise RequestRefused unless the form was sent by this page.

    The browser says where the form comes from (Sec-Fetch-Site, Origin), and the form repeats the text in the
    cookie, which other sites can neither read nor set.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise RequestRefused("this form was sent from another site: nothing was changed")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[1:] != ("://", request.headers.get("host")):
        raise RequestRefused("this form was sent from another site: nothing was changed")
    expected = request.cookies.get(FORM_COOKIE, "")
    given = (fields.get(FORM_FIELD) or [""])[0]
    if not expected or not hmac.compare_digest(expected.encode(), given.encode(errors="replace")):
        raise RequestRefused("this form is too old, or the browser keeps no cookies: load the page again")
