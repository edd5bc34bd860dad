"""Logging in with a token."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from assistly.storage.errors import InvalidValue

from ..access import TokenAccess, session_cookie
from .settings import own_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from ..page import WebPage

logger = logging.getLogger("assistly.web")


def show(page: WebPage) -> Response:
    """Ask for the token."""
    return _form(page, page.query("next"))


def log_in(access: TokenAccess) -> Callable[[WebPage], Response]:
    """Return the handler of the form."""

    def answer(page: WebPage) -> Response:
        try:
            session = access.log_in(page.value("token") or "", page.value("name"))
        except InvalidValue as error:
            return _form(page, page.value("next"), str(error), status=400)
        if session is None:
            client = page.request.client
            logger.warning("wrong token from %s", client.host if client else "an unknown address")
            wrong = "Wrong token. Ask the operator of the server for WEB_TOKEN or WEB_READ_TOKEN."
            return _form(page, page.value("next"), wrong, status=403)
        response = page.go(own_address(page, page.value("next")))
        page.set_cookie(response, session_cookie(page.request), session)
        return response

    return answer


def _form(page: WebPage, next: str | None, message: str | None = None, *, status: int = 200) -> Response:
    return page.show("login.html", status=status, next=next, message=message, name=page.value("name"))


def log_out(page: WebPage) -> Response:
    """End the session in this browser."""
    response = page.go(page.url("/login"))
    page.forget(response, session_cookie(page.request))
    return response
