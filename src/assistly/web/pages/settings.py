"""The settings of a visitor."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from assistly.storage.errors import InvalidValue

from ..page import is_zone

if TYPE_CHECKING:
    from starlette.responses import Response

    from ..page import WebPage


def keep(page: WebPage) -> Response:
    """Store the time zone in a cookie of the browser."""
    zone = page.value("zone")
    if zone is not None and not is_zone(zone):
        raise InvalidValue(f"there is no time zone {zone[:40]!r}: use a name such as Europe/Berlin")
    response = page.go(own_address(page, page.value("next")))
    page.keep_zone(response, zone)
    return response


def own_address(page: WebPage, path: str | None) -> str:
    """The address of a page of this application; of the first page if `path` is outside."""
    if path is None or not path.startswith("/") or path.startswith(("//", "/\\")):
        return page.url("/")
    parts = urlsplit(path)
    if parts.scheme or parts.netloc or any(ord(char) < 32 for char in path):
        return page.url("/")
    return page.url("") + path
