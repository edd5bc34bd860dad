"""Forms of other sites change nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from assistly.storage import Storage
from assistly.web import Visitor, create_app
from web.browsing import SENT, Browser
from web.filling import READ_TOKEN, TOKEN, Filled, fill, fingerprint
from web.routes import closed_paths, paths

BASE = "https://page.example"


def ann(_: Request) -> Visitor:
    return Visitor("ann", may_change=True)


@pytest.fixture
def site(memory: Storage) -> Browser:
    """Of an application that knows who is there, so that the form is all that protects it."""
    return Browser(create_app(memory, allow_changes=True, authorize=ann), base=BASE)


@pytest.fixture
def tokens(memory: Storage) -> Browser:
    browser = Browser(create_app(memory, allow_changes=True, token=TOKEN, read_token=READ_TOKEN), base=BASE)
    assert browser.log_in(TOKEN).status_code == 303
    return browser


def changes(filled: Filled) -> dict[str, dict[str, str]]:
    """For each path that changes something, the fields with which it does."""
    return {
        f"/jobs/{filled.dead.id}/replay": {},
        f"/jobs/{filled.unknown.id}/resolve": {"posted": "yes"},
        f"/jobs/{filled.waiting.id}/move": {"at": "2099-01-01T00:00"},
        f"/jobs/{filled.waiting.id}/cancel": {},
        f"/jobs/{filled.posted.id}/remove": {"sure": "1"},
        "/approval": {"id": filled.approval, "decision": "approved"},
        "/platforms/pause": {"platform": "mastodon"},
        "/platforms/resume": {"platform": "paused"},
        "/platforms/limit": {"platform": "mastodon", "count": "1", "per": "1", "unit": "hours"},
        "/schedule/disable": {"id": filled.schedule},
        "/schedule/remove": {"id": filled.schedule, "sure": "1"},
    }


def test_each_form_works_from_the_page(memory: Storage, site: Browser) -> None:
    """Or the tests below could not fail."""
    for path, values in changes(fill(memory)).items():
        before = fingerprint(memory)
        response = site.post(path, values, headers={"origin": BASE, "sec-fetch-site": "same-origin"})
        assert response.status_code == 303, (path, response.text)
        assert fingerprint(memory) != before, path


def test_each_kind_of_form_is_here(site: Browser, filled: Filled) -> None:
    app = site.app
    assert isinstance(app, Starlette)
    kinds = {path.split("/")[1] for path in closed_paths(app, "POST")}
    assert kinds == {path.split("/")[1] for path in changes(filled)} | {"settings"}


FORGED: dict[str, dict[str, Any]] = {
    "no field": {"field": None},
    "empty field": {"field": ""},
    "wrong field": {"field": "wrong"},
    "longer field": {"field": "{}x"},
    "field that is no ASCII": {"field": "ä"},
    "no cookie": {"cookie": None},
    "empty cookie and field": {"cookie": "", "field": ""},
    "another site": {"headers": {"origin": "https://evil.example"}},
    "another port": {"headers": {"origin": f"{BASE}:8443"}},
    "a subdomain": {"headers": {"origin": "https://a.page.example"}},
    "no origin": {"headers": {"origin": "null"}},
    "empty origin": {"headers": {"origin": ""}},
    "cross-site": {"headers": {"sec-fetch-site": "cross-site"}},
    "same-site": {"headers": {"sec-fetch-site": "same-site"}},
    "unknown site": {"headers": {"sec-fetch-site": "elsewhere"}},
    "the origin is right and the site is not": {"headers": {"origin": BASE, "sec-fetch-site": "cross-site"}},
    "text": {"headers": {"content-type": "text/plain"}},
    "parts": {"headers": {"content-type": "multipart/form-data; boundary=x"}},
    "JSON": {"headers": {"content-type": "application/json"}},
    "no type": {"headers": {"content-type": ""}},
    "broken text": {"body": b"form={}&a=\xff"},
    "too many fields": {"body": b"form={}" + b"&a=b" * 10_000},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("who", ["site", "tokens"])
def test_a_forged_form_is_refused(
    request: pytest.FixtureRequest, memory: Storage, filled: Filled, who: str, forged: dict[str, Any]
) -> None:
    browser: Browser = request.getfixturevalue(who)
    secret = browser.form_token
    before = fingerprint(memory)
    cookies = dict(browser.cookies) | {"assistly_form": forged.get("cookie", secret)}
    headers = {
        **SENT,
        "cookie": "; ".join(f"{name}={value}" for name, value in cookies.items() if value is not None),
        **forged.get("headers", {}),
    }
    app = browser.app
    assert isinstance(app, Starlette)
    for path in {*paths(app, "POST"), *changes(filled)}:
        field = forged.get("field", "{}")
        values = changes(filled).get(path, {"token": TOKEN}) | (
            {} if field is None else {"form": field.replace("{}", secret)}
        )
        content: dict[str, Any] = {"data": values}
        if "body" in forged:
            content = {"content": forged["body"].replace(b"{}", secret.encode())}
        response = browser.request("POST", path, headers=headers, **content)
        assert response.status_code == 403, (path, response.text)
        assert "set-cookie" not in response.headers, path
    assert fingerprint(memory) == before


def test_a_bearer_token_needs_no_field(memory: Storage, filled: Filled) -> None:
    browser = Browser(create_app(memory, allow_changes=True, token=TOKEN), base=BASE)
    browser.headers["authorization"] = f"Bearer {TOKEN}"
    response = browser.request("POST", f"/jobs/{filled.waiting.id}/cancel", data={"note": "a"})
    assert response.status_code == 303
    assert memory.queue.get(filled.waiting.id).status == "cancelled"  # type: ignore[union-attr]


@pytest.mark.parametrize("authorize", [ann, None])
def test_a_bearer_token_that_nobody_looked_at_saves_no_form(
    memory: Storage, filled: Filled, authorize: Any
) -> None:
    """A header alone is no proof, where something else lets people in."""
    base = BASE if authorize else "http://localhost"
    browser = Browser(create_app(memory, allow_changes=True, authorize=authorize), base=base)
    browser.headers["authorization"] = "Bearer anything"
    response = browser.request("POST", f"/jobs/{filled.waiting.id}/cancel", data={"note": "a"})
    assert response.status_code == 403
    assert memory.queue.get(filled.waiting.id) == filled.waiting


@pytest.mark.parametrize("token", [None, TOKEN])
def test_nothing_is_changed_unless_that_is_allowed(
    memory: Storage, filled: Filled, token: str | None
) -> None:
    app = create_app(memory, token=token)
    browser = Browser(app)
    if token:
        browser.log_in(token)
    before = fingerprint(memory)
    for path, values in changes(filled).items():
        response = browser.post(path, values)
        assert (response.status_code, "allow_changes=True" in response.text) == (403, True)
    for path in closed_paths(app, "GET"):
        page = browser.open(path, status=browser.get(path).status_code)
        assert {form.action for form in page.forms if form.method == "post"} <= {"/settings", "/logout"}
    assert fingerprint(memory) == before


@pytest.mark.parametrize(("size", "status"), [(1 << 20, 413), ((1 << 20) - 100, 400)])
@pytest.mark.parametrize("announced", [True, False])
def test_the_size_of_a_form_is_limited(
    memory: Storage, site: Browser, size: int, status: int, announced: bool
) -> None:
    body = f"form={site.form_token}&platform=".encode() + b"x" * size

    async def pieces() -> Any:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    content: Any = body if announced else pieces()
    response = site.request("POST", "/platforms/pause", content=content, headers=SENT)
    assert response.status_code == status
    assert memory.events.list() == []


def test_a_browser_that_leaves_is_no_error(memory: Storage) -> None:
    app = create_app(memory, allow_changes=True)
    sent: list[Any] = []

    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/settings",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", SENT["content-type"].encode())],
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(app(scope, leave, send))
    assert sent == ["http.response.start", "http.response.body"]


def test_forms_work_in_two_processes(memory: Storage, filled: Filled) -> None:
    """What one shows may be sent to the other: they share no secret."""
    first = Browser(create_app(memory, allow_changes=True))
    second = Browser(create_app(memory, allow_changes=True))
    form = first.open(f"/jobs/{filled.waiting.id}").form(f"/jobs/{filled.waiting.id}/cancel")
    second.cookies.update(first.cookies)
    assert second.send(form).status_code == 303


def test_processes_with_the_same_tokens_share_forms_and_sessions(memory: Storage, filled: Filled) -> None:
    first, second = (
        Browser(create_app(memory, allow_changes=True, token=TOKEN, read_token=READ_TOKEN)) for _ in "ab"
    )
    first.log_in(TOKEN, "ann")
    second.cookies.update(first.cookies)
    form = first.open(f"/jobs/{filled.waiting.id}").form(f"/jobs/{filled.waiting.id}/cancel")
    assert second.send(form, note="from the other").status_code == 303
    assert memory.events.list()[0].payload == {
        "by": "ann",
        "job": filled.waiting.id,
        "note": "from the other",
    }
