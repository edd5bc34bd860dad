"""Platforms: pauses and limits."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assistly.operations import platforms as operations
from assistly.storage.errors import InvalidValue
from assistly.views.status import status
from assistly.views.text import span

from .jobs import page_time, whole

if TYPE_CHECKING:
    from starlette.responses import Response

    from ..page import WebPage

UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}


def listed(page: WebPage) -> Response:
    """Show each platform that has jobs, a pause or a limit."""
    return page.show("platforms.html", status_=status(page.storage, now=page.now), units=UNITS)


def change(page: WebPage) -> Response:
    """Pause, resume or limit a platform."""
    verb = page.request.path_params["verb"]
    platform = page.exact("platform") or page.required("other", "the platform")
    match verb:
        case "pause":
            until = page.value("until")
            operations.pause(
                page.storage, platform, page.person, until=None if until is None else page_time(page, until)
            )
            notice = f"{platform} is paused: workers claim none of its jobs."
        case "resume":
            operations.resume(page.storage, platform, page.person)
            notice = f"{platform} is resumed."
        case "limit":
            notice = _limit(page, platform)
        case _:
            raise InvalidValue("a platform can be paused, resumed or limited")
    return page.go(page.url("/platforms"), notice)


def _limit(page: WebPage, platform: str) -> str:
    count, per, unit = page.value("count"), page.value("per"), page.value("unit")
    if count is None:
        operations.limit(page.storage, platform, page.person, count=None, per=None)
        return f"{platform}: limit removed."
    if unit not in UNITS:
        raise InvalidValue(f"the unit must be one of {', '.join(UNITS)}")
    try:
        length = timedelta(seconds=whole(per or "1") * UNITS[unit])
    except OverflowError:
        raise InvalidValue(f"{per} {unit} is too long") from None
    operations.limit(page.storage, platform, page.person, count=whole(count), per=length)
    return f"{platform}: limit set to {count} per {_unit(length)}."


def _unit(length: timedelta) -> str:
    """A duration, as in "10 per hour"."""
    for name, seconds in UNITS.items():
        if length == timedelta(seconds=seconds):
            return name.removesuffix("s")
    return span(length, exact=True)
