"""Who is let in, and who is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import itsdangerous.timed
import pytest
from httpx import Response
from itsdangerous import URLSafeTimedSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from assistly.storage import AsyncStorage, ConfigurationError, InvalidValue, Storage
from assistly.web import Visitor, create_app
from web.browsing import SENT, Browser, Document, query
from web.filling import READ_TOKEN, TOKEN, Filled, fingerprint, operator_events
from web.routes import OPEN, closed_paths, kinds_of_routes, paths


def with_tokens(storage: Storage, **options: Any) -> Starlette:
    return create_app(storage, **{"token": TOKEN, "read_token": READ_TOKEN, "allow_changes": True, **options})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "base", ["http://localhost", "http://LOCALHOST:80", "http://127.0.0.1:8765", "http://[::1]:8765"]
)
def test_this_machine_is_let_in(memory: Storage, address: str, base: str) -> None:
    assert Browser(create_app(memory), base=base, address=address).get("/").status_code == 200


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "203.0.113.9", "::ffff:10.0.0.1", "fe80::1", "0.0.0.0", "::", "testclient", ""]
)
def test_other_machines_are_not(memory: Storage, address: str) -> None:
    response = Browser(create_app(memory), address=address).get("/")
    assert (response.status_code, "WEB_TOKEN" in response.text) == (403, True)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::1].evil.example",
        "[::1]evil.example",
        "localhost@evil.example",
        "",
    ],
)
def test_a_name_that_another_site_gave_this_machine_is_refused(memory: Storage, host: str) -> None:
    """DNS rebinding: the page of an attacker, whose name now stands for 127.0.0.1."""
    assert Browser(create_app(memory)).get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Real-IP",
        "Via",
        "CF-Connecting-IP",
    ],
)
def test_requests_through_a_proxy_are_refused(memory: Storage, header: str) -> None:
    response = Browser(create_app(memory)).get("/", headers={header: "127.0.0.1"})
    assert (response.status_code, "proxy" in response.text) == (403, True)


def nobody(_: Request) -> Visitor | None:
    return None


CLOSED: list[tuple[str, Callable[[Storage], Browser]]] = [
    ("elsewhere", lambda storage: Browser(create_app(storage, allow_changes=True), address="10.0.0.1")),
    ("without a token", lambda storage: Browser(with_tokens(storage))),
    ("nobody", lambda storage: Browser(create_app(storage, allow_changes=True, authorize=nobody))),
]


@pytest.mark.parametrize("make", [make for _, make in CLOSED], ids=[name for name, _ in CLOSED])
def test_every_route_refuses_strangers(
    memory: Storage, filled: Filled, make: Callable[[Storage], Browser]
) -> None:
    browser = make(memory)
    app = browser.app
    assert isinstance(app, Starlette)
    before = fingerprint(memory)
    assert kinds_of_routes(app) == set()
    assert {route.path for route in app.routes if isinstance(route, Mount)} == {"/static"}
    assert {path for path in paths(app, "GET") if path in OPEN} <= OPEN
    for path in closed_paths(app, "GET"):
        for method in ("GET", "HEAD"):
            response = browser.request(method, path)
            assert response.status_code in (303, 401, 403), path
            assert is_login(response) == (response.status_code == 303)
            assert filled.waiting.content not in response.text
    for path in closed_paths(app, "POST"):
        response = browser.request("POST", path, data={"form": "a"}, headers={"cookie": "assistly_form=a"})
        assert response.status_code in (401, 403), path
    assert fingerprint(memory) == before


def is_login(response: Response) -> bool:
    return str(response.headers.get("location", "")).partition("?")[0] == "/login"


def test_the_login_page_names_no_storage(memory: Storage) -> None:
    page = Browser(with_tokens(memory)).open("/login")
    assert "memory" not in page.text
    assert [form.action for form in page.forms] == ["/login"]


@pytest.mark.parametrize("given", ["", "wrong-wrong-wrong", TOKEN[:-1], f"{TOKEN}a", TOKEN.upper(), "é" * 16])
def test_a_wrong_token(memory: Storage, caplog: pytest.LogCaptureFixture, given: str) -> None:
    browser = Browser(with_tokens(memory))
    response = browser.log_in(given)
    assert (response.status_code, "set-cookie" in response.headers) == (403, False)
    assert "Wrong token" in Document(response.text).text
    assert browser.get("/").status_code == 303
    assert browser.get("/", headers={"authorization": f"Bearer {given}".encode()}).status_code == 401
    assert "wrong token" in caplog.text
    assert not given or given not in caplog.text
    assert not given or given not in response.text


@pytest.mark.parametrize(("token", "may_change"), [(TOKEN, True), (READ_TOKEN, False)])
def test_logging_in(memory: Storage, filled: Filled, token: str, may_change: bool) -> None:
    browser = Browser(with_tokens(memory))
    asked = browser.get(f"/jobs/{filled.waiting.id}?a=1")
    assert query(asked.headers["location"]) == {"next": f"/jobs/{filled.waiting.id}?a=1"}
    page = Document(browser.get(asked.headers["location"]).text)
    response = browser.send(page.form("/login"), token=token, name="ann")
    assert (response.status_code, response.headers["location"]) == (303, f"/jobs/{filled.waiting.id}?a=1")
    page = browser.open(response.headers["location"])
    assert filled.waiting.content in page.text
    assert any("cancel" in form.action for form in page.forms) == may_change
    assert browser.send(page.form("/logout")).status_code == 303
    assert browser.get("/").status_code == 303


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {READ_TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
def test_bearer_tokens(memory: Storage, authorization: str, status: int) -> None:
    browser = Browser(with_tokens(memory))
    assert browser.get("/", headers={"authorization": authorization}).status_code == status


def test_whoever_may_change_things_has_a_name(memory: Storage, filled: Filled) -> None:
    browser = Browser(with_tokens(memory))
    for name in ("", "  "):
        response = browser.log_in(TOKEN, name)
        assert (response.status_code, "set-cookie" in response.headers) == (400, False)
        assert "enter your name" in Document(response.text).text
    assert browser.log_in(READ_TOKEN, "").status_code == 303
    program = Browser(with_tokens(memory))
    program.headers["authorization"] = f"Bearer {TOKEN}"
    assert program.request("POST", f"/jobs/{filled.waiting.id}/cancel", headers=SENT).status_code == 303
    assert operator_events(memory)[-1].payload["by"] == "somebody with WEB_TOKEN"


def test_the_foot_says_why_nothing_can_be_changed(memory: Storage) -> None:
    reader = Browser(with_tokens(memory))
    reader.log_in(READ_TOKEN)
    assert "Read-only: this login does not allow changes" in reader.open("/").text
    assert "Read-only: changes need --allow-changes" in Browser(create_app(memory)).open("/").text


def test_a_wrong_bearer_token_is_not_mended_by_a_session(memory: Storage) -> None:
    browser = Browser(with_tokens(memory))
    browser.log_in(TOKEN)
    assert browser.get("/").status_code == 200
    assert browser.get("/", headers={"authorization": "Bearer nonsense"}).status_code == 401


def session(storage: Storage, token: str = TOKEN) -> str:
    browser = Browser(with_tokens(storage))
    assert browser.log_in(token, "ann").status_code == 303
    return str(browser.cookies[browser.session_cookie])


def status_with(app: Starlette, cookie: str) -> int:
    browser = Browser(app)
    return browser.get("/", headers={"cookie": f"{browser.session_cookie}={cookie}".encode()}).status_code


def test_a_session_that_was_tampered_with(memory: Storage) -> None:
    app, cookie = with_tokens(memory), session(memory)
    reader = session(memory, READ_TOKEN)
    assert status_with(app, cookie) == 200
    payload, time, signature = cookie.split(".")
    for changed in (
        f"{payload}.{time}.{signature[::-1]}",
        f"{payload[:-1]}.{time}.{signature}",
        f"{payload}.{time[::-1]}.{signature}",
        f"{payload}.{time}",
        f"{payload}.{time}.{reader.split('.')[2]}",
        "",
        ".",
        "..",
        "é",
        "a" * 3000,
    ):
        assert status_with(app, changed) == 303, changed


def test_a_session_ends(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    app, cookie = with_tokens(memory), session(memory)
    now = itsdangerous.timed.TimestampSigner("a").get_timestamp()
    for hours, status in ((0, 200), (11.9, 200), (12.1, 303)):
        monkeypatch.setattr(
            itsdangerous.timed.TimestampSigner, "get_timestamp", lambda _, h=hours: int(now + h * 3600)
        )
        assert status_with(app, cookie) == status, hours


def test_a_new_token_ends_the_sessions_of_the_old_one(memory: Storage) -> None:
    cookie, reader = session(memory), session(memory, READ_TOKEN)
    changed = with_tokens(memory, token="another-token-of-mine")
    assert (status_with(changed, cookie), status_with(changed, reader)) == (303, 200)
    # Whose token may now only look may only look, also in a session from before.
    demoted = with_tokens(memory, token=None, read_token=TOKEN)
    browser = Browser(demoted)
    browser.cookies.set(browser.session_cookie, cookie)
    assert "Read-only" in browser.open("/").text


def test_processes_with_the_same_tokens_share_sessions(memory: Storage) -> None:
    assert status_with(with_tokens(memory), session(memory)) == 200


def test_a_reader_changes_nothing(memory: Storage, filled: Filled) -> None:
    app = with_tokens(memory)
    before = fingerprint(memory)
    by_cookie = Browser(app)
    by_cookie.log_in(READ_TOKEN)
    by_header = Browser(app)
    by_header.headers["authorization"] = f"Bearer {READ_TOKEN}"
    for browser in (by_cookie, by_header):
        for path in closed_paths(app, "POST"):
            if path != "/settings":
                values = {"verb": "cancel", "id": "1", "highest": "9", "platform": "x"}
                response = browser.post(path, values)
                said = "this login does not allow changes" in response.text
                assert (response.status_code, said) == (403, True), path
    assert fingerprint(memory) == before


@pytest.mark.parametrize(
    "options",
    [
        {"token": "short"},
        {"token": "x" * 15},
        {"read_token": "x" * 15},
        {"token": ""},
        {"token": TOKEN, "read_token": TOKEN},
        {"token": f" {TOKEN}"},
        {"read_token": f"{TOKEN}\n"},
        {"token": f"{TOKEN}\x00"},
        {"token": f"{TOKEN}\udc80"},
        {"token": TOKEN, "authorize": nobody},
        {"read_token": TOKEN, "authorize": nobody},
    ],
)
def test_options_that_are_refused(memory: Storage, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_app(memory, **options)
    assert "xxx" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_arguments_of_a_wrong_kind(memory: Storage) -> None:
    with pytest.raises(InvalidValue, match="storage"):
        create_app("sqlite:///a.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="Mars"):
        create_app(memory, zone="Mars/Olympus")


def test_a_token_of_16_characters_is_enough(memory: Storage) -> None:
    assert Browser(create_app(memory, token="x" * 16)).log_in("x" * 16).status_code == 303


def test_an_async_storage_is_shown(memory: Storage) -> None:
    assert Browser(create_app(AsyncStorage(memory))).get("/").status_code == 200


def test_authorize(memory: Storage, filled: Filled) -> None:
    async def later(request: Request) -> Visitor | None:
        name = request.headers.get("x-user")
        return None if name is None else Visitor(name, may_change=name == "ann")

    def at_once(request: Request) -> Visitor | None:
        return Visitor("ann", may_change=True) if request.headers.get("x-user") == "ann" else None

    for authorize in (later, at_once):
        app = create_app(memory, allow_changes=True, authorize=authorize)
        # Wherever it comes from: the application decides alone.
        browser = Browser(app, base="https://app.example", address="203.0.113.9")
        assert browser.get("/").status_code == 403
        assert browser.get("/login").status_code == 404
        assert "you are ann" in Document(browser.get("/", headers={"x-user": "ann"}).text).text
    reader = Browser(create_app(memory, allow_changes=True, authorize=later))
    reader.headers["x-user"] = "bob"
    assert "Read-only" in reader.open("/").text
    assert reader.post("/platforms/pause", {"platform": "x"}).status_code == 403


@pytest.mark.parametrize("returned", [True, "ann", {"name": "ann"}])
def test_authorize_that_returns_something_else(memory: Storage, returned: Any) -> None:
    app = create_app(memory, authorize=lambda _: returned)
    assert Browser(app, errors=False).get("/").status_code == 500
    with pytest.raises(TypeError, match="authorize must return a Visitor or None"):
        Browser(app).get("/")


ELSEWHERE = [
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example/",
    "http:evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/jobs\r\nSet-Cookie: a=b",
    "/\x00",
    "///evil.example",
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
@pytest.mark.parametrize("root", ["", "/admin"])
def test_next_leads_nowhere_else(memory: Storage, elsewhere: str, root: str) -> None:
    inner = with_tokens(memory)
    app = Starlette(routes=[Mount(root, inner)]) if root else inner
    browser = Browser(app)
    login = Document(browser.get(f"{root}/login", params={"next": elsewhere}).text).form(f"{root}/login")
    responses = [browser.send(login, token=TOKEN, name="ann", next=elsewhere)]
    settings = browser.open(f"{root}/").form(f"{root}/settings")
    responses.append(browser.send(settings, zone="UTC", next=elsewhere))
    for response in responses:
        assert (response.status_code, response.headers["location"]) == (303, f"{root}/")
        assert "a" not in browser.cookies


def test_next_leads_back(memory: Storage) -> None:
    browser = Browser(with_tokens(memory))
    login = browser.open("/login?next=/jobs%3Fmatch%3D%C3%A4%2520b").form("/login")
    response = browser.send(login, token=TOKEN, name="ann")
    assert response.headers["location"] == "/jobs?match=%C3%A4%20b"


def test_sessions_of_two_ports_and_two_mounts_are_apart(memory: Storage) -> None:
    first = Browser(with_tokens(memory), base="http://localhost:8001")
    assert first.log_in(TOKEN).status_code == 303
    second = Browser(with_tokens(memory, token="another-token-of-mine"), base="http://localhost:8002")
    assert second.log_in("another-token-of-mine").status_code == 303
    mounted = Browser(with_tokens(memory), base="http://localhost:8001", root_path="/x")
    assert len({first.session_cookie, second.session_cookie, mounted.session_cookie}) == 3


@pytest.mark.parametrize("content", [[1], [True], None, "x", [True, 5], {"a": 1}, [1, None]])
def test_a_signed_session_of_another_form_is_none(memory: Storage, content: object) -> None:
    signed = URLSafeTimedSerializer(READ_TOKEN, salt="assistly.web.session").dumps(content)
    assert status_with(with_tokens(memory), signed) == 303


@pytest.mark.parametrize("name", ["x" * 101, "a\x00b", "a\nb"])
def test_a_name_that_cannot_be_kept(memory: Storage, name: str) -> None:
    browser = Browser(with_tokens(memory))
    response = browser.log_in(TOKEN, name)
    assert (response.status_code, "100 printable characters" in response.text) == (400, True)


@pytest.mark.parametrize(
    "wrong",
    [{"token": b"a-token-of-bytes-01"}, {"authorize": 5}, {"allow_changes": "no"}, {"doctor": "yes"}],
)
def test_wrong_arguments(memory: Storage, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        create_app(memory, **wrong)


def test_a_plain_authorize_does_not_hold_up_the_event_loop(memory: Storage) -> None:
    seen = []

    def authorize(_: Request) -> Visitor:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append(True)
        return Visitor("ann")

    assert Browser(create_app(memory, authorize=authorize)).get("/").status_code == 200
    assert seen == [True]


def test_no_redirect_repeats_a_foreign_host(memory: Storage) -> None:
    response = Browser(with_tokens(memory)).get("/jobs/", headers={"host": "evil.example"})
    assert response.status_code == 404
    assert "location" not in response.headers
