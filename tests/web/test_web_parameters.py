"""Addresses and forms with rubbish: the answer says so, and the page never fails."""

from __future__ import annotations

import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from assistly.storage import MemoryBackend, Storage
from assistly.web import create_app
from web.browsing import SENT, Browser, Document
from web.filling import HOUR, Filled, fill
from web.routes import paths

RUBBISH = [
    "\0",
    "a\0b",
    "\ud800",
    "\udfff a",
    "ä" * 600,
    "x" * 5000,
    "-1",
    "0",
    "1.5",
    "1e400",
    "NaN",
    "9" * 18,
    "9" * 19,
    "9" * 5000,
    str(2**63),
    str(2**64),
    "٣",
    "²",
    " 1 ",
    "1_000",
    "'; DROP TABLE assistly_queue_jobs; --",
    "%",
    "*",
    "../../etc/passwd",
    "0001-01-01",
    "0001-01-01T00:00",
    "9999-12-31",
    "9999-12-31T23:59:59.999999+00:00",
    "9999-12-31T23:59-23:59",
    "2026-02-30",
    "2026-W10-1",
    "24h",
    "now",
    "unknown",
    "replay",
    "remove",
    "resolve",
    "dead_letter",
    "yes",
    "hours",
    "Europe",
    "Europe/Berlin",
    "/",
    "\r\nSet-Cookie: a=b",
    "<script>",
    "{{ 7 * 7 }}",
    "\u202e\u2066",
]
FOR_ENGINES = ["\0", "a\0b", "\ud800", "ä" * 600, "9" * 18, str(2**63), "*", "'; DROP TABLE a; --"]
"""Those that an engine might see: the others end before."""

PAGES: dict[str, tuple[str, ...]] = {
    "/": ("platform", "refresh"),
    "/calendar": ("from",),
    "/calendar/2026-03-01": ("platform",),
    "/jobs": ("status", "platform", "match", "key", "due", "since", "kind", "before"),
    "/jobs/bulk?platform=dead&verb=replay": ("verb", "id", "at", "missed", "status", "key", "due"),
    "/approvals": ("status", "before"),
    "/approval": ("id",),
    "/platforms": (),
    "/schedules": ("after",),
    "/schedule": ("id",),
    "/events": ("type", "by", "before"),
}
"""The parameters that each page reads."""

NAMES = sorted({name for names in PAGES.values() for name in names} | {"next", "zone"})


def encoded(values: dict[str, str] | list[tuple[str, str]]) -> str:
    return urlencode(values, errors="surrogatepass")


def answers_without_failing(response: Any, *, html: bool = True) -> None:
    assert response.status_code in (200, 303, 307, 400, 403, 404, 405, 409), (response.url, response.text)
    if html and response.headers.get("content-type", "").startswith("text/html"):
        assert Document(response.text).title


def texts_for(engine: str) -> list[str]:
    return RUBBISH if engine == "memory" else FOR_ENGINES


def test_each_parameter_of_each_page(engine: str, storage: Storage) -> None:
    browser = Browser(create_app(storage, allow_changes=True))
    fill(storage)
    for text in texts_for(engine):
        for path, names in PAGES.items():
            mark = "&" if "?" in path else "?"
            for name in names:
                answers_without_failing(browser.get(f"{path}{mark}{encoded({name: text})}"))
        segment = quote(text, safe="", errors="surrogatepass")
        for path in (f"/calendar/{segment}", f"/jobs/{segment}", f"/{segment}", f"/static/{segment}"):
            answers_without_failing(browser.get(path))


def test_every_page_is_here(browser: Browser) -> None:
    app = browser.app
    assert isinstance(app, Starlette)
    shown = {*paths(app, "GET")} - {"/doctor", "/healthz", "/jobs/1"}
    assert {path.partition("?")[0] for path in PAGES} == shown


FORMS: dict[str, dict[str, str]] = {
    "/jobs/1/cancel": {"claim": "", "note": ""},
    "/jobs/1/move": {"at": "2026-03-01T09:00"},
    "/jobs/5/replay": {"at": "", "unknown": ""},
    "/jobs/6/resolve": {"posted": "yes", "remote_id": ""},
    "/jobs/1/remove": {},
    "/jobs/1/nonsense": {},
    "/jobs/bulk": {"verb": "cancel", "platform": "none", "highest": "1", "newest": "1", "id": "", "at": ""},
    "/approval": {"id": "approval-1", "decision": "approved", "note": ""},
    "/platforms/pause": {"platform": "dead", "until": "", "note": ""},
    "/platforms/resume": {"platform": "dead"},
    "/platforms/limit": {"platform": "dead", "count": "1", "per": "1", "unit": "days"},
    "/platforms/nonsense": {"platform": "dead"},
    "/schedule/enable": {"id": "weekly"},
    "/schedule/nonsense": {"id": "weekly"},
    "/settings": {"zone": "", "next": ""},
}


def test_each_field_of_each_form(engine: str, storage: Storage) -> None:
    browser = Browser(create_app(storage, allow_changes=True))
    fill(storage)
    for text in texts_for(engine):
        for path, values in FORMS.items():
            for name in values:
                body = encoded({"form": browser.form_token, **values, name: text})
                response = browser.request("POST", path, content=body, headers=SENT)
                answers_without_failing(response, html=False)


def test_every_form_is_here(browser: Browser) -> None:
    app = browser.app
    assert isinstance(app, Starlette)
    kinds = {path.split("/")[1] for path in paths(app, "POST")}
    assert {path.split("/")[1] for path in FORMS} == kinds


@cache
def shared() -> Browser:
    storage = Storage(MemoryBackend(), auto_prune=False)
    fill(storage)
    return Browser(create_app(storage, allow_changes=True))


TEXTS = st.one_of(
    st.sampled_from(RUBBISH),
    st.text(max_size=20),
    st.text(string.digits + "-:T+.Z", max_size=30),
    st.integers().map(str),
    st.datetimes().map(datetime.isoformat),
    st.dates().map(str),
)
QUERIES = st.lists(st.tuples(st.sampled_from(NAMES), TEXTS), max_size=5)
no_deadline = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@no_deadline
@given(path=st.sampled_from([*PAGES, "/jobs/1"]), query=QUERIES, zone=TEXTS)
def test_any_query(path: str, query: list[tuple[str, str]], zone: str) -> None:
    cookie = f"assistly_zone={quote(zone, errors='surrogatepass')}"
    answers_without_failing(
        shared().get(f"{path}{'&' if '?' in path else '?'}{encoded(query)}", headers={"cookie": cookie})
    )


@no_deadline
@given(
    segment=TEXTS, zone=st.sampled_from(["Asia/Tokyo", "America/Los_Angeles", "UTC", "Pacific/Kiritimati"])
)
def test_any_day(segment: str, zone: str) -> None:
    day = quote(segment, safe="", errors="surrogatepass")
    headers = {"cookie": f"assistly_zone={zone}"}
    answers_without_failing(shared().get(f"/calendar/{day}", headers=headers))
    answers_without_failing(shared().get(f"/calendar?from={day}", headers=headers))


@pytest.mark.parametrize("cookie", ["\xff\xfe", "Europe", "..", "a" * 300, '"', "%00", "Mars/Olympus", ""])
@pytest.mark.parametrize("name", ["assistly_zone", "assistly_form", "assistly_notice"])
def test_cookies_with_rubbish(filled: Filled, browser: Browser, name: str, cookie: str) -> None:
    header = f"{name}={cookie}".encode("latin-1")
    for path in ("/", "/jobs", "/calendar", f"/jobs/{filled.waiting.id}"):
        assert browser.get(path, headers={"cookie": header}).status_code == 200


@pytest.fixture
def at_the_ends_of_time(memory: Storage) -> list[datetime]:
    times = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
    for at in times:
        job = memory.queue.schedule("x", "a", at)
        assert job.scheduled_at == at
    memory.platforms.pause("x", until=times[1])
    return times


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles", "Pacific/Kiritimati"])
def test_times_that_a_zone_does_not_have(
    memory: Storage, browser: Browser, at_the_ends_of_time: list[datetime], zone: str
) -> None:
    headers = {"cookie": f"assistly_zone={zone}"}
    for path in ("/", "/jobs", "/jobs/1", "/jobs/2", "/platforms", "/calendar", "/calendar/0001-01-02"):
        response = browser.get(path, headers=headers)
        assert response.status_code == 200, (path, response.text)


def test_numbers_that_are_wrong_are_named(browser: Browser, filled: Filled) -> None:
    for path in (
        "/jobs?before=x",
        "/events?before=-1",
        "/jobs?status=gone",
        "/jobs?due=9h",
        "/calendar/today",
    ):
        response = browser.get(path)
        assert response.status_code == 400
        assert "Overview" in Document(response.text).text


def test_a_limit_that_is_too_long(browser: Browser, memory: Storage) -> None:
    values = {"platform": "x", "count": "1", "per": "9" * 15, "unit": "days"}
    assert browser.post("/platforms/limit", values).status_code == 400
    assert memory.platforms.list() == []


def test_texts_that_are_no_text(storage: Storage) -> None:
    """Half a character, as JSON may hold it. What an engine stores, the page shows."""
    made: list[Callable[[], object]] = [
        lambda: storage.approvals.add("a", {"text": "\ud83d"}),
        lambda: storage.events.append("a", {"text": "\ud83d"}),
        lambda: storage.queue.schedule("x", "a", metadata={"text": "\ud83d"}),
    ]
    for make in made:
        try:
            make()
        except ValueError:
            continue
    browser = Browser(create_app(storage))
    for path in ("/approvals", "/events", "/jobs", "/jobs/1"):
        answers_without_failing(browser.get(path))


def test_a_time_without_an_offset_is_one_of_the_visitors_zone(
    memory: Storage, browser: Browser, filled: Filled
) -> None:
    browser.cookies.set("assistly_zone", "Asia/Kolkata")
    browser.post(f"/jobs/{filled.waiting.id}/move", {"at": "2099-01-01T12:00"})
    moved = memory.queue.get(filled.waiting.id)
    assert moved is not None
    assert moved.due_at == datetime(2099, 1, 1, 6, 30, tzinfo=UTC)
    browser.post("/platforms/pause", {"platform": "x", "until": "2099-01-01T12:00+01:00"})
    (paused,) = [each for each in memory.platforms.list() if each.name == "x"]
    assert paused.paused_until == datetime(2099, 1, 1, 11, tzinfo=UTC)
    assert timedelta(hours=1) == HOUR
