"""What every response carries, and what none does."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from httpx import Response
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from assistly.storage import Storage
from assistly.web import Visitor, create_app
from web.browsing import Browser, Document
from web.filling import READ_TOKEN, TOKEN, Filled
from web.routes import paths

STRICT = {
    "content-security-policy",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "x-robots-tag",
    "cache-control",
}


def broken(_: Request) -> Visitor:
    raise RuntimeError("planted")


def has_strict_headers(response: Response) -> None:
    missing = STRICT - set(response.headers)
    assert not missing, (response.request.method, response.request.url, response.status_code, missing)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"]
)
def test_every_response_has_strict_headers(memory: Storage, filled: Filled, method: str) -> None:
    app = create_app(memory, allow_changes=True, token=TOKEN)
    stranger, ann = Browser(app), Browser(app)
    ann.log_in(TOKEN)
    every = {
        *paths(app, "GET"),
        *paths(app, "POST"),
        "/static/style.css",
        "/static/none.css",
        "/static",
        "/none",
    }
    statuses = set()
    for path in sorted(every):
        for browser in (stranger, ann):
            response = browser.request(method, path)
            has_strict_headers(response)
            assert response.status_code < 500
            statuses.add(response.status_code)
    assert len(statuses) > 1 or method not in ("GET", "HEAD", "POST")
    if method not in ("GET", "HEAD", "POST"):
        assert statuses <= {307, 404, 405}


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1"])
def test_refusals_have_strict_headers(memory: Storage, address: str) -> None:
    has_strict_headers(Browser(create_app(memory), address=address).get("/"))


def test_failures_have_strict_headers(memory: Storage, caplog: pytest.LogCaptureFixture) -> None:
    for app in (
        create_app(memory, authorize=broken),
        Starlette(routes=[Mount("/", create_app(memory, authorize=broken))]),
    ):
        response = Browser(app, errors=False).get("/")
        assert response.status_code == 500
        assert "planted" not in response.text
        has_strict_headers(response)


def test_only_static_files_are_kept_by_browsers(memory: Storage, browser: Browser, filled: Filled) -> None:
    assert browser.get("/").headers["cache-control"] == "no-store"
    assert browser.get(f"/jobs/{filled.dead.id}").headers["cache-control"] == "no-store"
    style = browser.get("/static/style.css")
    assert style.headers["cache-control"] != "no-store"
    again = browser.get("/static/style.css", headers={"if-none-match": style.headers["etag"]})
    assert again.status_code == 304
    has_strict_headers(again)


def cookies_of(responses: list[Response]) -> list[str]:
    return [cookie for response in responses for cookie in response.headers.get_list("set-cookie")]


@pytest.mark.parametrize(
    ("base", "root", "path"),
    [
        ("http://localhost", "", "/"),
        ("https://page.example", "", "/"),
        ("https://page.example", "/admin", "/admin"),
        ("https://page.example", "/adm in", "/adm%20in"),
    ],
)
def test_cookies(memory: Storage, filled: Filled, base: str, root: str, path: str) -> None:
    inner = create_app(memory, allow_changes=True, token=TOKEN)
    browser = Browser(Starlette(routes=[Mount(root, inner)]) if root else inner, base=base)
    root = path.rstrip("/")
    responses = [browser.get(f"{root}/login"), browser.log_in(TOKEN, "ann", root)]
    page = browser.open(f"{root}/platforms")
    responses.append(browser.send(page.form(f"{root}/settings"), zone="Asia/Tokyo"))
    responses.append(
        browser.send(page.form(f"{root}/platforms/pause", platform="mastodon"), note="so that it rests")
    )
    responses += [browser.get(f"{root}/platforms")]
    responses.append(browser.send(page.form(f"{root}/settings"), zone=""))
    responses.append(browser.send(page.form(f"{root}/logout")))
    cookies = cookies_of(responses)
    names = [cookie.partition("=")[0] for cookie in cookies]
    assert [re.sub("_[0-9a-f]{8}$", "", name) for name in names] == [
        "assistly_form",
        "assistly_session",
        "assistly_zone",
        "assistly_notice",
        "assistly_notice",
        "assistly_zone",
        "assistly_session",
    ]
    for cookie in cookies:
        attributes = [part.strip().lower() for part in cookie.split(";")[1:]]
        assert "httponly" in attributes, cookie
        assert "samesite=strict" in attributes, cookie
        assert f"path={path.lower()}" in attributes, cookie
        assert ("secure" in attributes) == base.startswith("https"), cookie
        assert not any(attribute.startswith("domain") for attribute in attributes), cookie
    assert set(browser.cookies) == {"assistly_form"}


def test_a_notice_is_shown_once(memory: Storage, filled: Filled, browser: Browser) -> None:
    browser.post("/platforms/pause", {"platform": "<b>ü</b>"})
    first = Document(browser.get("/platforms").text)
    assert "<b>ü</b> is paused" in first.text
    assert "is paused:" not in browser.get("/platforms").text


def test_a_notice_fits_into_a_cookie(memory: Storage, browser: Browser) -> None:
    response = browser.post("/platforms/pause", {"platform": "\N{GRINNING FACE}" * 50})
    assert response.status_code == 303
    assert all(len(cookie) < 4096 for cookie in response.headers.get_list("set-cookie"))
    long = browser.post("/approval", {"id": add_long_approval(memory), "decision": "approved"})
    assert long.status_code == 303
    assert all(len(cookie) < 4096 for cookie in long.headers.get_list("set-cookie"))


def add_long_approval(storage: Storage) -> str:
    return storage.approvals.add("\N{GRINNING FACE}" * 128, {}).id


def test_no_secret_is_shown_or_logged(
    memory: Storage, filled: Filled, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(memory, allow_changes=True, token=TOKEN, read_token=READ_TOKEN)
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    for token in (TOKEN, READ_TOKEN, "canary-nobodys-1"):
        browser = Browser(app)
        answers = [browser.log_in(token, "ann")]
        answers += [browser.get(path) for path in paths(app, "GET")]
        answers += [browser.post(path, {"token": token}) for path in paths(app, "POST")]
        answers.append(browser.get("/", headers={"authorization": f"Bearer {token}"}))
        texts += [f"{answer.text}{answer.headers}" for answer in answers]
    shown = "\n".join(texts)
    for token in (TOKEN, READ_TOKEN, "canary-nobodys-1"):
        assert token not in shown
        assert token not in caplog.text.replace("form={", "")


def test_no_page_has_anything_from_elsewhere(memory: Storage, filled: Filled, browser: Browser) -> None:
    app: Any = browser.app
    for path in paths(app, "GET"):
        response = browser.get(path)
        if "html" not in response.headers["content-type"]:
            continue
        page = Document(response.text)
        assert all(resource.startswith("/static/") for resource in page.resources)
        assert all(link.startswith(("/", "#")) for link in page.links)
        assert not any(tag in ("script", "iframe", "style") for tag, _ in page.tags)
        inline = [
            name for _, attributes in page.tags for name in attributes if name.startswith(("on", "style"))
        ]
        assert inline == []


def test_head_has_no_body_but_its_headers(memory: Storage, browser: Browser) -> None:
    for path in ("/healthz", "/static/style.css"):
        assert (
            browser.request("HEAD", path).headers["content-length"]
            == browser.get(path).headers["content-length"]
        )
