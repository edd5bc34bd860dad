"""The first page: what needs attention, the queue over time, and the platforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.views.history import history
from assistly.views.status import status

from ..chart import chart

if TYPE_CHECKING:
    from starlette.responses import Response

    from ..page import WebPage


def show(page: WebPage) -> Response:
    """Show the state of the storage."""
    found = status(page.storage, now=page.now)
    platform = page.exact_query("platform")
    if platform not in {each.name for each in found.platforms}:
        platform = None
    return page.show(
        "overview.html",
        status_=found,
        platform=platform,
        chart=chart(history(page.storage, platform=platform, now=found.at), page.zone),
    )
