"""The event log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.views.events import EventFilter, search

from .jobs import whole

if TYPE_CHECKING:
    from starlette.responses import Response

    from ..page import WebPage


_LIMIT = 50


def listed(page: WebPage) -> Response:
    """List the matching events, newest first."""
    type, by, before = page.query("type"), page.query("by"), page.query("before")
    found = search(
        page.storage,
        EventFilter(type=type, by=by),
        before=None if before is None else whole(before),
        limit=_LIMIT,
    )
    return page.show("events.html", found=found, type=type, by=by)
