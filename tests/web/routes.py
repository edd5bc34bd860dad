"""All routes of an application, so that a test cannot forget a new one."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount, Route

OPEN = {"/static", "/login", "/logout", "/healthz"}
"""What strangers may see, and how they end a session."""


def paths(app: Starlette, method: str) -> list[str]:
    """The paths that take a method, with something in the place of their parameters."""
    return [
        route.path.replace("{day}", "2026-03-01").replace("{id}", "1").replace("{verb}", "cancel")
        for route in app.routes
        if isinstance(route, Route) and method in (route.methods or ())
    ]


def closed_paths(app: Starlette, method: str) -> list[str]:
    return [path for path in paths(app, method) if path not in OPEN]


def kinds_of_routes(app: Starlette) -> set[type]:
    return {type(route) for route in app.routes} - {Route, Mount}
