"""`create_app`: the page as an ASGI application."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from assistly.storage.addresses import place_of
from assistly.storage.aio import AsyncStorage
from assistly.storage.clock import Clock, system_clock
from assistly.storage.errors import (
    ClaimLost,
    ConfigurationError,
    Conflict,
    InvalidValue,
    MigrationError,
    NotFound,
    OutcomeUnknown,
    StorageClosed,
    StorageError,
    StorageUnavailable,
)
from assistly.storage.storage import Storage
from assistly.storage.validation import flag, wrong_type

from .access import (
    AccessRule,
    Authorize,
    LoopbackAccess,
    OwnAccess,
    RequestRefused,
    TokenAccess,
    bearer_token,
)
from .errors import show_error
from .forms import TooLarge, read_fields, require_own_form
from .headers import ALL_HEADERS, StrictHeaders
from .page import Site, WebPage, is_zone
from .pages import (
    approvals,
    calendar,
    doctor,
    events,
    jobs,
    login,
    overview,
    platforms,
    schedules,
    settings,
)

if TYPE_CHECKING:
    from starlette.types import Scope

    from assistly.doctor.runner import Report

Handler = Callable[[WebPage], Response]
Endpoint = Callable[[Request], Awaitable[Response]]

_STATIC = "/static"

logger = logging.getLogger("assistly.web")

_STATUS: tuple[tuple[type[StorageError], int, str], ...] = (
    (NotFound, 404, "Not found"),
    (InvalidValue, 400, "Invalid request"),
    (Conflict, 409, "Nothing was changed"),
    (ClaimLost, 409, "Nothing was changed"),
    (OutcomeUnknown, 503, "The outcome is unknown: check before you try again"),
    (StorageUnavailable, 503, "The storage cannot be reached"),
    (StorageClosed, 503, "The storage is closed"),
    (MigrationError, 503, "The storage is not ready"),
)


def create_app(
    storage: Storage | AsyncStorage,
    *,
    allow_changes: bool = False,
    token: str | None = None,
    read_token: str | None = None,
    authorize: Authorize | None = None,
    zone: str | None = None,
    doctor: Callable[[], Report] | None = None,
    clock: Clock = system_clock,
) -> Starlette:
    """Return the page as an ASGI application, to serve or to mount in another application.

    It is read-only unless `allow_changes` (default: False). Access:

    - with `authorize`, this function decides: it is called with each request, and returns a `Visitor`, or
      None to deny access. Use it if your own application knows who is logged in;
    - with `token` or `read_token` (at least 16 characters), people log in with one of them, and programs
      send it as `Authorization: Bearer`. `token` allows changes, `read_token` is read-only;
    - otherwise only requests from this machine to `localhost` are accepted. Requests through a proxy are
      refused.

    `zone` is the time zone for visitors who have not chosen one, such as Europe/Berlin (default: that of the
    server). `doctor` runs the checks of the page Doctor, for example `assistly.doctor.run` (default: no such
    page). `clock` gives the time for the pages (default: the clock of this machine); in a test, give the
    storage the same one. The caller closes the storage. Before an event loop runs, create an AsyncStorage
    with `AsyncStorage(open_storage())`. Storage calls run on the thread pool of Starlette, 40 threads at
    most.

    Raises ConfigurationError for conflicting options, and InvalidValue for a wrong storage or zone.
    """
    if isinstance(storage, AsyncStorage):
        storage = storage._storage  # noqa: SLF001 - the pages run on threads of their own
    elif not isinstance(storage, Storage):
        raise wrong_type(
            "storage", "a Storage or an AsyncStorage, such as AsyncStorage(open_storage())", storage
        )
    flag("allow_changes", allow_changes)
    for argument, given in (("token", token), ("read_token", read_token)):
        if given is not None and not isinstance(given, str):
            raise wrong_type(argument, "a str", given)
    for argument, function in (("authorize", authorize), ("doctor", doctor)):
        if function is not None and not callable(function):
            raise wrong_type(argument, "a function", function)
    if zone is not None and not is_zone(zone):
        raise InvalidValue(f"there is no time zone {zone!r}: use a name such as Europe/Berlin")
    access = _access(token, read_token, authorize)
    place = place_of(storage._backend)  # noqa: SLF001 - derived from the same package
    site = Site(storage, place, allow_changes, zone, doctor, access.has_login, clock)
    app = Starlette(
        routes=_routes(site, access),
        middleware=[Middleware(StrictHeaders)],
        exception_handlers={HTTPException: _http_errors(site, access), Exception: _unexpected},
    )
    # A redirect would copy the Host header of the request, which may be forged.
    app.router.redirect_slashes = False
    app.state.site = site
    return app


def _access(token: str | None, read_token: str | None, authorize: Authorize | None) -> AccessRule:
    if authorize is not None:
        if token is not None or read_token is not None:
            raise ConfigurationError("give either tokens or authorize, not both")
        return OwnAccess(authorize)
    if token is not None or read_token is not None:
        return TokenAccess(token, read_token)
    return LoopbackAccess()


def _routes(site: Site, access: AccessRule) -> list[Route | Mount]:
    def shown(path: str, handler: Handler) -> Route:
        return Route(path, _endpoint(site, access, handler), methods=["GET"])

    def changed(path: str, handler: Handler) -> Route:
        return Route(path, _endpoint(site, access, handler, changes=True), methods=["POST"])

    routes: list[Route | Mount] = [
        shown("/", overview.show),
        shown("/calendar", calendar.show),
        shown("/calendar/{day}", calendar.show_day),
        shown("/jobs", jobs.listed),
        shown("/jobs/bulk", jobs.ask),
        changed("/jobs/bulk", jobs.change_many),
        shown("/jobs/{id}", jobs.show),
        changed("/jobs/{id}/{verb}", jobs.change),
        shown("/approvals", approvals.listed),
        shown("/approval", approvals.show),
        changed("/approval", approvals.decide),
        shown("/platforms", platforms.listed),
        changed("/platforms/{verb}", platforms.change),
        shown("/schedules", schedules.listed),
        shown("/schedule", schedules.show),
        changed("/schedule/{verb}", schedules.change),
        shown("/events", events.listed),
        shown("/doctor", doctor.show),
        Route("/settings", _endpoint(site, access, settings.keep), methods=["POST"]),
        Route("/healthz", _alive, methods=["GET"]),
        Mount(_STATIC, _Static(directory=Path(__file__).with_name("static"))),
    ]
    if isinstance(access, TokenAccess):
        routes += [
            Route("/login", _endpoint(site, access, login.show, open_to_all=True), methods=["GET"]),
            Route(
                "/login", _endpoint(site, access, login.log_in(access), open_to_all=True), methods=["POST"]
            ),
            Route("/logout", _endpoint(site, access, login.log_out, open_to_all=True), methods=["POST"]),
        ]
    return routes


class _Static(StaticFiles):
    """Files that a browser may cache if it revalidates them each time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if "\0" in path:
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _endpoint(
    site: Site, access: AccessRule, handler: Handler, *, changes: bool = False, open_to_all: bool = False
) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        page = WebPage(request, site)
        try:
            if not open_to_all:
                visitor = await access.visitor(request)
                if visitor is None:
                    return _unknown_visitor(page, access)
                page.visitor = visitor
            if request.method == "POST":
                page.fields = await read_fields(request)
                if page.visitor is None or not access.has_login or bearer_token(request) is None:
                    require_own_form(request, page.fields)
            if changes and not page.may_change:
                raise RequestRefused(
                    "this login does not allow changes"
                    if site.allow_changes
                    else "this page is read-only: start it with --allow-changes (allow_changes=True)"
                )
        except RequestRefused as reason:
            return _refused(page, str(reason))
        except TooLarge:
            return PlainTextResponse("the form is too large\n", 413)
        except TimeoutError:
            return PlainTextResponse("the form did not arrive in time\n", 408)
        except ClientDisconnect:
            return PlainTextResponse("the form did not arrive\n", 400)
        return await run_in_threadpool(_answer, page, handler)

    return endpoint


def _answer(page: WebPage, handler: Handler) -> Response:
    try:
        return handler(page)
    except StorageError as error:
        status, title = next(
            ((status, title) for kind, status, title in _STATUS if isinstance(error, kind)),
            (500, "Error"),
        )
        if status >= 500:
            reason = " ".join(str(error).split())
            logger.error(
                "%d for %s: %s",
                status,
                _asked(page.request),
                reason,
                exc_info=error if status == 500 else None,
            )
        return show_error(page, status, title, str(error))


def _unknown_visitor(page: WebPage, access: AccessRule) -> Response:
    if access.has_login and page.request.method == "GET" and "authorization" not in page.request.headers:
        asked = page.path_and_query
        return page.go(page.url("/login", next=asked if asked != "/" else None))
    if not access.has_login:
        return PlainTextResponse("access denied\n", 403)
    return PlainTextResponse("this page needs a token\n", 401, {"WWW-Authenticate": "Bearer"})


def _refused(page: WebPage, reason: str) -> Response:
    logger.warning("refused %s: %s", _asked(page.request), reason)
    return PlainTextResponse(f"{reason}\n", 403)


def _asked(request: Request) -> str:
    """The method and the path, on one line."""
    return f"{request.method} {quote(request.url.path)}"


async def _alive(_: Request) -> Response:
    return PlainTextResponse("alive\n")


def _http_errors(site: Site, access: AccessRule) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
        page = WebPage(request, site)
        if error.status_code == 404 and not request.scope.get("root_path", "").endswith(_STATIC):
            try:
                page.visitor = await access.visitor(request)
            except RequestRefused as reason:
                return _refused(page, str(reason))
        if page.visitor is None:
            return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
        return show_error(page, 404, "Page not found", "There is no page at this address.")

    return answer


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again, and the server logs the traceback.
    logger.error("500 for %s: %s", _asked(request), type(error).__name__)
    # This response bypasses the middleware.
    return PlainTextResponse("internal error; the log of the server says why\n", 500, ALL_HEADERS)
