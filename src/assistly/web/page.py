"""The context of a page: the request, the visitor, the storage, and how values are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.responses import HTMLResponse, RedirectResponse, Response

from assistly.operations.audit import Person
from assistly.storage.errors import InvalidValue
from assistly.storage.recurrence import zone_of

from .access import Visitor
from .forms import FORM_COOKIE, Fields, identifier_of, new_form_token
from .templating import templates

if TYPE_CHECKING:
    from starlette.requests import Request

    from assistly.doctor.runner import Report
    from assistly.storage import Storage
    from assistly.storage.clock import Clock

NOTICE_COOKIE = "assistly_notice"
ZONE_COOKIE = "assistly_zone"
_YEAR_SECONDS = 365 * 86_400
_LONGEST_NOTICE = 1000


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages of an application share.

    `place` identifies the storage. `zone` is the time zone for visitors who have chosen none (None: the local
    one). `doctor` checks the storage (None: no such page). `has_login`: people can log out. `clock` returns
    the current time.
    """

    storage: Storage
    place: str
    allow_changes: bool
    zone: str | None
    doctor: Callable[[], Report] | None
    has_login: bool
    clock: Clock


@dataclass(slots=True)
class WebPage:
    """One request, and the means to respond. `visitor` is None if unknown."""

    request: Request
    site: Site
    visitor: Visitor | None = None
    fields: Fields = field(default_factory=dict)

    @property
    def storage(self) -> Storage:
        """The storage to show."""
        return self.site.storage

    @property
    def now(self) -> datetime:
        """The current time."""
        return self.site.clock()

    @property
    def may_change(self) -> bool:
        """Whether this visitor may make changes here."""
        return self.site.allow_changes and self.visitor is not None and self.visitor.may_change

    @property
    def person(self) -> Person:
        """The person who makes a change, with the note from the form."""
        return Person(None if self.visitor is None else self.visitor.name, self.value("note"))

    @property
    def zone_name(self) -> str | None:
        """The name of the time zone of this visitor; None for the local one of the server."""
        chosen = self.request.cookies.get(ZONE_COOKIE)
        if chosen and is_zone(chosen):
            return chosen
        return self.site.zone

    @property
    def zone(self) -> tzinfo | None:
        """The time zone of this visitor; None for the local one of the server."""
        return None if self.zone_name is None else zone_of(self.zone_name)

    @property
    def path_and_query(self) -> str:
        """The address of this page, relative to where the application is mounted."""
        url = self.request.url
        path = url.path.removeprefix(self.request.scope.get("root_path", "").rstrip("/"))
        return f"{path}?{url.query}" if url.query else path

    def query(self, name: str) -> str | None:
        """A query parameter, stripped; None if it is missing or blank."""
        return (self.request.query_params.get(name) or "").strip() or None

    def queries(self, name: str) -> list[str]:
        """All values of a query parameter that are not blank."""
        return [value for value in self.request.query_params.getlist(name) if value.strip()]

    def exact_query(self, name: str) -> str | None:
        """An identifier in the query, unchanged; None if it is missing or empty."""
        return self.request.query_params.get(name) or None

    def exact(self, name: str) -> str | None:
        """An identifier in a hidden field of the form, unchanged; None if it is missing or empty."""
        return identifier_of((self.fields.get(name) or [""])[0]) or None

    def required_exact(self, name: str, what: str) -> str:
        """An identifier in a hidden field of the form. Raises InvalidValue if it is missing."""
        value = self.exact(name)
        if value is None:
            raise InvalidValue(f"{what} is missing: fill it in")
        return value

    def value(self, name: str) -> str | None:
        """A field of the form, stripped; None if it is missing or blank."""
        return (self.fields.get(name) or [""])[0].strip() or None

    def required(self, name: str, what: str) -> str:
        """A field of the form. Raises InvalidValue if it is missing or blank."""
        value = self.value(name)
        if value is None:
            raise InvalidValue(f"{what} is missing: fill it in")
        return value

    def url(self, path: str, **query: Any) -> str:
        """The address of a page, including the path where the application is mounted."""
        root = self.request.scope.get("root_path", "").rstrip("/")
        pairs = [
            (name, each)
            for name, value in query.items()
            for each in (value if isinstance(value, list | tuple) else [value])
            if each is not None and each != ""
        ]
        return quote(root) + path + (f"?{urlencode(pairs)}" if pairs else "")

    def time(self, time: datetime) -> str:
        """A time in the zone of the visitor, to the second, with its offset."""
        return self.local(time).isoformat(sep=" ", timespec="seconds")

    def local(self, time: datetime) -> datetime:
        """A time in the zone of the visitor; in UTC if it is outside the years 1 to 9999 there."""
        try:
            return time.astimezone(self.zone)
        except OverflowError:
            return time.astimezone(UTC)

    def show(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Render a template."""
        form_token = self.request.cookies.get(FORM_COOKIE) or new_form_token()
        notice = self.request.cookies.get(NOTICE_COOKIE)
        html = (
            templates()
            .get_template(template)
            .render(
                page=self,
                site=self.site,
                form_token=form_token,
                notice=None if notice is None else _decoded(notice),
                **values,
            )
        )
        response = HTMLResponse(html, status_code=status)
        if self.request.cookies.get(FORM_COOKIE) is None:
            self.set_cookie(response, FORM_COOKIE, form_token)
        if notice is not None:
            self.forget(response, NOTICE_COOKIE)
        return response

    def go(self, address: str, notice: str | None = None) -> Response:
        """Redirect the browser to a page, which shows the notice once."""
        response = RedirectResponse(address, status_code=303)
        if notice is not None:
            self.set_cookie(response, NOTICE_COOKIE, quote(notice[:_LONGEST_NOTICE]))
        return response

    def set_cookie(self, response: Response, name: str, value: str, *, seconds: int | None = None) -> None:
        """Set a cookie that scripts cannot read and other sites cannot send."""
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=self._cookie_path,
            secure=self.request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def keep_zone(self, response: Response, name: str | None) -> None:
        """Store the time zone that the visitor has chosen, or delete it."""
        if name is None:
            self.forget(response, ZONE_COOKIE)
        else:
            self.set_cookie(response, ZONE_COOKIE, name, seconds=_YEAR_SECONDS)

    def forget(self, response: Response, name: str) -> None:
        """Delete a cookie in the browser."""
        self.set_cookie(response, name, "", seconds=0)

    @property
    def _cookie_path(self) -> str:
        return quote(self.request.scope.get("root_path", "").rstrip("/")) or "/"


def is_zone(name: str) -> bool:
    """Whether there is a time zone of this name."""
    try:
        zone_of(name)
    except InvalidValue:
        return False
    return True


def _decoded(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)[:_LONGEST_NOTICE]
