"""The checks of `assistly doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import Response

    from ..page import WebPage


def show(page: WebPage) -> Response:
    """Run the checks, and show their findings."""
    make = page.site.doctor
    return page.show("doctor.html", report=None if make is None else make())
