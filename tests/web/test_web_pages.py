"""Each page: on an empty and a filled storage, below a path, in trouble, and with texts of strangers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from assistly.storage import (
    InvalidValue,
    MemoryBackend,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageUnavailable,
    open_async_storage,
)
from assistly.storage.testing.faults import Fault, FaultyBackend, fail_with
from assistly.web import create_app
from web.browsing import Browser, Document
from web.filling import FOREIGN, HOUR, TOKEN, Filled, dead_letter, fill
from web.routes import paths


def pages(app: Starlette, filled: Filled | None = None) -> list[str]:
    found = [path for path in paths(app, "GET") if path not in ("/healthz", "/login")]
    if filled is not None:
        found = [path for path in found if path not in ("/jobs/1", "/approval", "/schedule", "/jobs/bulk")]
        found += [f"/jobs/{job.id}" for job in filled.jobs]
        found += [
            f"/approval?id={filled.approval}",
            "/approvals?status=all",
            f"/schedule?id={filled.schedule}",
            "/jobs/bulk?verb=cancel&platform=mastodon",
            "/jobs/bulk?verb=replay&status=dead_letter",
            "/events?type=operator.*",
            "/?refresh=1",
        ]
    return found


def test_an_empty_storage(storage: Storage) -> None:
    app = create_app(storage, allow_changes=True)
    browser = Browser(app)
    statuses = {path: browser.get(path).status_code for path in pages(app)}
    assert {path for path, status in statuses.items() if status != 200} == {
        "/jobs/1",
        "/jobs/bulk",
        "/approval",
        "/schedule",
    }
    assert {status for status in statuses.values() if status != 200} == {400, 404}


def test_a_filled_storage(storage: Storage) -> None:
    found = fill(storage)
    app = create_app(storage, allow_changes=True)
    for path in pages(app, found):
        page = Browser(app).open(path)
        assert page.title.endswith("– Assistly"), path
        assert [tag for tag, _ in page.tags].count("h1") == 1, path


@pytest.mark.parametrize("where", ["mount", "root_path", "both"])
def test_below_a_path(memory: Storage, filled: Filled, where: str) -> None:
    """Whatever a page links to is below that path, and is there."""
    inner = create_app(memory, allow_changes=True, token=TOKEN)
    root = {"mount": "/admin", "root_path": "/proxy", "both": "/proxy/admin"}[where]
    outer: Any = inner
    if where != "root_path":
        outer = FastAPI()
        outer.mount("/admin", inner)
    browser = Browser(outer, root_path="" if where == "mount" else "/proxy")
    assert browser.get(f"{root}/jobs").headers["location"] == f"{root}/login?next=%2Fjobs"
    login = Document(browser.get(f"{root}/login").text).form(f"{root}/login")
    browser.send(login, token=TOKEN, name="ann")
    seen: set[str] = set()
    waiting = [f"{root}/"]
    while waiting:
        address = waiting.pop()
        shape = re.sub(r"\d+", "N", urlsplit(address).path)
        if shape in seen:
            continue
        seen.add(shape)
        response = browser.get(address)
        assert response.status_code == 200, address
        if "html" not in response.headers["content-type"]:
            continue
        page = Document(response.text)
        found = page.links + page.resources + [form.action for form in page.forms]
        assert all(each.startswith((f"{root}/", "#")) for each in found), (address, found)
        waiting += [each for each in page.links + page.resources if not each.startswith("#")]
    assert {f"{root}/calendar", f"{root}/static/style.css", f"{root}/jobs/N", f"{root}/schedule"} <= seen
    resume = Document(browser.get(f"{root}/platforms").text).form(f"{root}/platforms/resume")
    assert browser.send(resume).headers["location"] == f"{root}/platforms"


def test_texts_of_strangers_are_only_texts(storage: Storage) -> None:
    found = fill(storage, FOREIGN)
    storage.schedules.put(FOREIGN, FOREIGN, FOREIGN, every=HOUR)
    storage.approvals.add(FOREIGN, {FOREIGN: FOREIGN})
    storage.events.append(FOREIGN, {FOREIGN: FOREIGN})
    dead_letter(storage, FOREIGN, FOREIGN)
    storage.platforms.pause(FOREIGN, reason=FOREIGN)
    app = create_app(storage, allow_changes=True)
    browser = Browser(app)
    shown = 0
    for path in pages(app, found):
        response = browser.get(path)
        assert "<script" not in response.text, path
        page = Document(response.text)
        assert not any(tag == "script" for tag, _ in page.tags)
        assert not any("onerror" in attributes for _, attributes in page.tags)
        shown += FOREIGN in page.text
    assert shown > 10
    # Also where they come back from the address and the form.
    for path in ("/jobs", "/events", "/approvals", "/approval", "/schedule", "/jobs/bulk", "/"):
        names = ("text", "platform", "type", "by", "id", "status", "verb", "before", "key")
        for name in names:
            assert "<script" not in browser.get(path, params={name: FOREIGN}).text
    for path in ("/settings", "/approval", "/platforms/pause", "/jobs/bulk"):
        answer = browser.post(path, dict.fromkeys(("zone", "id", "verb", "until", "platform"), FOREIGN))
        assert "<script" not in answer.text


def test_the_storage_is_away(caplog: pytest.LogCaptureFixture) -> None:
    backend = FaultyBackend(MemoryBackend(), [Fault(fail_with(StorageUnavailable), lasting=True)])
    with Storage(backend, auto_prune=False) as storage:
        app = create_app(storage, allow_changes=True)
        browser = Browser(app)
        for path in pages(app):
            if path not in ("/jobs/bulk", "/doctor", "/approval", "/schedule"):
                response = browser.get(path)
                assert response.status_code == 503, path
                logged = caplog.records[-1]
                assert logged.getMessage().startswith(f"503 for GET {path}: "), path
                assert logged.exc_info is None
                assert "The storage cannot be reached" in Document(response.text).text
        response = browser.post("/platforms/pause", {"platform": "x"})
        assert response.status_code == 503
        assert browser.get("/healthz").status_code == 200


def test_postgres_is_away(caplog: pytest.LogCaptureFixture) -> None:
    url = "postgresql://somebody:canary-7f3a@127.0.0.1:1/nothing?connect_timeout=1"
    with Storage(PostgresBackend(url), auto_prune=False) as storage:
        browser = Browser(create_app(storage, allow_changes=True))
        for path in ("/", "/jobs", "/jobs/1", "/approvals", "/events"):
            response = browser.get(path)
            assert response.status_code == 503
            assert "canary" not in response.text
            assert "cannot be reached" in Document(response.text).text
        assert browser.post("/platforms/pause", {"platform": "x"}).status_code == 503
    lines = [record.getMessage() for record in caplog.records if record.name == "assistly.web"]
    assert len(lines) == 6
    assert "canary" not in "".join(lines)
    assert not any("\n" in line for line in lines)


def test_a_storage_that_is_closed(memory: Storage) -> None:
    browser = Browser(create_app(memory))
    memory.close()
    assert browser.get("/jobs").status_code == 503


def test_migrations_are_missing(path: Path) -> None:
    path.touch()
    with Storage(SqliteBackend(path, auto_migrate=False), auto_prune=False) as storage:
        response = Browser(create_app(storage)).get("/jobs")
        assert response.status_code == 503
        assert "migrat" in Document(response.text).text


def test_a_day_shows_what_is_planned_and_what_was_posted(memory: Storage, filled: Filled) -> None:
    memory.schedules.put("hourly", "planned", "what is posted", every=HOUR)
    browser = Browser(create_app(memory, zone="UTC"))
    today = datetime.now(UTC).date()
    page = browser.open(f"/calendar/{today + timedelta(days=3)}")
    rows = page.tables["Planned times of schedules that have no job yet"][1:]
    hours = [row for row in rows if row[1] == "hourly"]
    assert len(hours) == 24
    assert {tuple(row[2:]) for row in hours} == {("planned", "what is posted")}
    assert "/schedule?id=hourly" in page.links
    page = browser.open(f"/calendar/{filled.posted.updated_at.date()}?platform=posted")
    (counts,) = [rows for caption, rows in page.tables.items() if caption.startswith("This day")]
    assert counts[1] == ["posted", "0", "0", "1", "0"]
    assert "/jobs?platform=posted&status=posted" in page.links


def test_the_next_times_of_a_schedule_say_what_became_of_them(memory: Storage) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + HOUR
    memory.schedules.put("s", "x", "a", every=HOUR, starts_at=start)
    browser = Browser(create_app(memory, zone="UTC"))
    assert "job" not in times(browser)
    cancelled, waiting, removed = memory.schedules.run(ahead=4 * HOUR)[:3]
    memory.queue.cancel(cancelled.id)
    memory.queue.remove(removed.id)
    found = times(browser)
    first, second, third = re.findall(r"– (.*?) 20", found)[:3]
    assert (first, second) == (f"job {cancelled.id} cancelled", f"job {waiting.id} scheduled")
    assert "will not become a job" in third
    assert found.count("will not become a job") == 1
    assert f"job {cancelled.id} cancelled" in browser.open("/schedules").text
    memory.schedules.disable("s")
    assert "disabled: none of these times becomes a job" in times(browser)


def times(browser: Browser) -> str:
    """What is said of the next times of the schedule s."""
    return browser.open("/schedule?id=s").text.partition("Next times ")[2].partition("Its waiting jobs")[0]


def test_an_unexpected_error_is_logged_with_its_page(
    memory: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Any:
        raise RuntimeError("canary-7f3a")

    browser = Browser(create_app(memory, doctor=fail), errors=False)
    response = browser.get("/doctor")
    assert (response.status_code, "canary" in response.text) == (500, False)
    assert "500 for GET /doctor: RuntimeError" in caplog.text


def test_an_address_that_is_none(memory: Storage) -> None:
    browser = Browser(create_app(memory))
    page = browser.open("/nothing", 404)
    assert page.title.startswith("Page not found")
    assert "/jobs" in page.links
    assert browser.get("/static/nothing").text == "Not Found\n"
    assert Browser(create_app(memory), address="10.0.0.1").get("/nothing").status_code == 403
    assert Browser(create_app(memory, token=TOKEN)).get("/nothing").text == "Not Found\n"


def test_a_cancelled_job_is_listed_with_the_time_of_that(memory: Storage) -> None:
    job = memory.queue.cancel(memory.queue.schedule("x", "a", datetime(2099, 1, 1, tzinfo=UTC)).id)
    page = Browser(create_app(memory, zone="UTC")).open("/jobs")
    ((_, row),) = page.tables.values()
    assert row[3] == job.updated_at.isoformat(sep=" ", timespec="seconds")


def test_a_storage_that_is_not_open_is_refused() -> None:
    opening: Any = open_async_storage(engine="memory")
    with pytest.raises(InvalidValue, match=r"as AsyncStorage\(open_storage\(\)\)"):
        create_app(opening)
