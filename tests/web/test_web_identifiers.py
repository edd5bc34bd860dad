"""Identifiers that a browser or a person would change: spaces around them, line breaks, quotes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import Storage
from assistly.web import create_app
from assistly.web.forms import hidden_value, identifier_of
from web.browsing import Browser, Document, Form, query

ODD = [
    "trail ",
    " lead",
    "line1\nline2",
    "tab\there",
    '"quoted"',
    '"',
    "null",
    "a\u2028b",
    "\u202eright",
    "plain",
]
NOW = datetime.now(UTC)


def as_a_browser_sends_it(form: Form) -> Form:
    """Browsers send line breaks as CR LF, and no others."""
    form.fields = [
        (name, value.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n"))
        for name, value in form.fields
    ]
    return form


@pytest.mark.parametrize("odd", ODD)
def test_a_hidden_field_holds_any_identifier(odd: str) -> None:
    held = hidden_value(odd)
    assert held.isprintable()
    assert held == held.strip()
    assert identifier_of(held) == odd


@pytest.mark.parametrize("value", ["x", '"', '"a', '"a" b', "[1]", '"\\ud800"'])
def test_what_was_not_encoded_is_taken_as_it_is(value: str) -> None:
    assert identifier_of(value) == value or value == '"\\ud800"'


@pytest.mark.parametrize("odd", ODD)
def test_an_approval_is_decided_and_not_its_twin(memory: Storage, odd: str) -> None:
    twin = odd.strip() if odd != odd.strip() else f"{odd} "
    for id in (odd, twin):
        memory.approvals.add(id, {"text": "shall it?"})
    browser = Browser(create_app(memory, allow_changes=True))
    forms = [form for form in browser.open("/approvals").forms if form.action.endswith("/approval")]
    (form,) = [form for form in forms if identifier_of(dict(form.fields)["id"]) == odd]
    assert browser.send(as_a_browser_sends_it(form), decision="approved").status_code == 303
    decided = {id: memory.approvals.get(id) for id in (odd, twin)}
    assert {id: each and each.status for id, each in decided.items()} == {odd: "approved", twin: "pending"}
    links = [link for link in browser.open("/approvals?status=all").links if "/approval?" in link]
    assert len(links) == 2
    for link in links:
        browser.open(link)


@pytest.mark.parametrize("odd", ODD)
def test_a_platform_is_paused_and_not_its_twin(memory: Storage, odd: str) -> None:
    memory.queue.schedule(odd, "content", NOW)
    browser = Browser(create_app(memory, allow_changes=True))
    forms = [form for form in browser.open("/platforms").forms if form.action.endswith("/platforms/pause")]
    (form,) = [form for form in forms if "platform" in form.names]
    assert browser.send(as_a_browser_sends_it(form)).status_code == 303
    assert [(each.name, each.paused) for each in memory.platforms.list()] == [(odd, True)]


@pytest.mark.parametrize("odd", ODD)
def test_a_schedule_is_removed_and_not_its_twin(memory: Storage, odd: str) -> None:
    twin = odd.strip() if odd != odd.strip() else f"{odd} "
    for id in (odd, twin):
        memory.schedules.put(id, "mastodon", "content", every=timedelta(hours=1))
    browser = Browser(create_app(memory, allow_changes=True))
    links = [link for link in browser.open("/schedules").links if "/schedule?" in link]
    (link,) = [link for link in links if query(link)["id"] == odd]
    form = next(form for form in browser.open(link).forms if form.action.endswith("/schedule/remove"))
    assert browser.send(as_a_browser_sends_it(form), sure="yes").status_code == 303
    assert [each.id for each in memory.schedules.list()] == [twin]


@pytest.mark.parametrize("odd", ["trail ", "line1\nline2"])
def test_jobs_of_a_platform_and_not_of_its_twin_are_cancelled(memory: Storage, odd: str) -> None:
    job = memory.queue.schedule(odd, "content", NOW + timedelta(days=1))
    other = memory.queue.schedule(odd.strip() + "x", "content", NOW + timedelta(days=1))
    browser = Browser(create_app(memory, allow_changes=True))
    response = browser.get("/jobs/bulk", params={"verb": "cancel", "platform": odd})
    assert response.status_code == 200
    form = next(
        form for form in Document(response.text).forms if form.method == "post" and "verb" in form.names
    )
    assert browser.send(as_a_browser_sends_it(form)).status_code == 200
    statuses = [memory.queue.get(each.id) for each in (job, other)]
    assert [each and str(each.status) for each in statuses] == ["cancelled", "scheduled"]
