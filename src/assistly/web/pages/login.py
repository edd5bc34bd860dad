"""Logging in with a token."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..access import TokenAccess, session_cookie
from .settings import own_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from ..page import WebPage

logger = logging.getLogger("assistly.web")


def show(page: WebPage) -> Response:
    """Ask for the token."""
    return page.show("login.html", next=page.query("next"), wrong=False)


def log_in(access: TokenAccess) -> Callable[[WebPage], Response]:
    """Make the answer to the form."""

    def answer(page: WebPage) -> Response:
        session = access.log_in(page.value("token") or "", page.value("name"))
        if session is None:
            client = page.request.client
            logger.warning(
                "somebody at %s gave a wrong token", client.host if client else "an unknown address"
            )
            return page.show("login.html", status=403, next=page.value("next"), wrong=True)
        response = page.go(own_address(page, page.value("next")))
        page.set_cookie(response, session_cookie(page.request), session)
        return response

    return answer


def log_out(page: WebPage) -> Response:
    """End the session in this browser."""
    response = page.go(page.url("/login"))
    page.forget(response, session_cookie(page.request))
    return response
