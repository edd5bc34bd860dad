"""A browser without a window: it parses pages, follows links, and sends forms."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from httpx import ASGITransport, AsyncClient, Cookies, Headers, Response
from starlette.types import ASGIApp

SENT = {"content-type": "application/x-www-form-urlencoded"}


@dataclass
class Form:
    """A form of a page, with the values that a browser would send."""

    method: str
    action: str
    label: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.fields} | {name for name, _ in self.buttons if name}

    def filled(self, values: Mapping[str, str | list[str]]) -> dict[str, list[str]]:
        """The fields to send: those of the form, with these values in their place."""
        sent: dict[str, list[str]] = {}
        for name, value in self.fields:
            sent.setdefault(name, []).append(value)
        sent |= {name: value if isinstance(value, list) else [value] for name, value in values.items()}
        return sent


class Document(HTMLParser):
    """What a page consists of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.title = ""
        self.tables: dict[str, list[list[str]]] = {}
        """The texts of the cells by row, by the caption."""
        self._rows: list[list[str]] = []
        self._caption = ""
        self._texts: list[str] = []
        self._open: list[str] = []
        self._form: Form | None = None
        self._select: str | None = None
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self._texts).split())

    def form(self, action: str, **fields: str) -> Form:
        """The only form that is sent there, and has these values."""
        (found,) = [
            form
            for form in self.forms
            if urlsplit(form.action).path == action and set(fields.items()) <= {*form.fields}
        ]
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "form":
            self._form = Form(
                found.get("method") or "get", found.get("action") or "", found.get("aria-label") or ""
            )
            self.forms.append(self._form)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        if tag == "table":
            self._rows = []
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("link", "img", "script", "iframe"):
            self.resources.append(found.get("href") or found.get("src") or "")
        if self._form is not None:
            self._add_control(tag, found)
        if tag not in ("input", "meta", "link", "br", "rect", "line"):
            self._open.append(tag)

    def _add_control(self, tag: str, found: dict[str, str | None]) -> None:
        assert self._form is not None
        name, value = found.get("name"), found.get("value") or ""
        if tag == "select":
            self._select = name
            self._form.fields.append((name or "", ""))
        elif tag == "button":
            self._form.buttons.append((name or "", value))
        elif tag == "input" and name and found.get("type") != "checkbox":
            self._form.fields.append((name, value))
        elif tag == "option" and self._select and "selected" in found and value:
            self._form.fields[-1] = (self._select, value)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag == "select":
            self._select = None
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data.strip()
        if self._open[-1:] == ["title"] and "svg" not in self._open:
            self.title += data
        elif self._open[-1:] != ["style"]:
            self._texts.append(data)


class Browser:
    """Somebody at a machine with cookies of their own."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        base: str = "http://localhost",
        address: str = "127.0.0.1",
        errors: bool = True,
        root_path: str = "",
    ) -> None:
        self.app = app
        self._root = root_path
        transport = ASGITransport(
            app,
            raise_app_exceptions=errors,
            client=(address, 50000),
            root_path=root_path,
        )
        self._client = AsyncClient(transport=transport, base_url=base)

    @property
    def cookies(self) -> Cookies:
        return self._client.cookies

    @property
    def session_cookie(self) -> str:
        """The name of the cookie of a session with this application."""
        place = f"{self._client.base_url.netloc.decode()}{self._root}"
        return f"assistly_session_{sha256(place.encode()).hexdigest()[:8]}"

    @property
    def headers(self) -> Headers:
        """Sent with every request."""
        return self._client.headers

    def request(self, method: str, path: str, **options: Any) -> Response:
        return asyncio.run(self._client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def open(self, path: str, status: int = 200) -> Document:
        """Parse a page, after the redirects that lead to it."""
        response = self.get(path, follow_redirects=True)
        assert response.status_code == status, response.text
        return Document(response.text)

    def send(self, form: Form, **values: str | list[str]) -> Response:
        """Send a form. The redirect is not followed."""
        data = form.filled(values)
        if form.method == "get":
            return self.get(form.action, params=data)
        return self.request("POST", form.action, data=data)

    def post(self, path: str, values: Mapping[str, str | list[str]], **options: Any) -> Response:
        """Send a form of the page with its own field against forgery, from nowhere else."""
        return self.request("POST", path, data={"form": self.form_token, **values}, **options)

    @property
    def form_token(self) -> str:
        """The text that this browser's forms repeat."""
        if "assistly_form" not in self.cookies:
            self.get("/")
            if "assistly_form" not in self.cookies:
                self.get("/login")
        return str(self.cookies["assistly_form"])

    def log_in(self, token: str, name: str = "ann", root: str = "") -> Response:
        page = Document(self.get(f"{root}/login").text)
        return self.send(page.form(f"{root}/login"), token=token, name=name)


def query(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query))
