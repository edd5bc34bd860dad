"""`assistly web`."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from .listening import listen_address
from .logs import log_as_text
from .opening import opened
from .output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.applications import Starlette

    from assistly.doctor.runner import Report
    from assistly.monitoring.address import Address


def web(
    context: typer.Context,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="A port on this machine, or HOST:PORT. Any host except loopback needs WEB_TOKEN or "
            "WEB_READ_TOKEN.",
        ),
    ] = "8765",
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Let people approve, resolve, replay and pause. Default: read only.",
        ),
    ] = False,
    zone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE", help="The time zone for visitors who have not chosen one. Default: the local one."
        ),
    ] = None,
) -> None:
    """Serve a page that shows what is due and what is wrong, until Ctrl-C.

    Only this machine can open it, unless WEB_TOKEN or WEB_READ_TOKEN is set (in the environment or `.env`; at
    least 16 characters). Then people log in with one of them; WEB_READ_TOKEN gives read-only access. The page
    uses plain HTTP: put a proxy with TLS in front of it before others reach it over a network. Needs the
    extra `web`.
    """
    address = listen_address(listen)
    try:
        from assistly.web.access import check_tokens
        from assistly.web.app import create_app
        from assistly.web.serving import is_loopback_name
    except ImportError as error:
        from assistly.storage.errors import ConfigurationError

        raise ConfigurationError(
            f"`assistly web` needs starlette, jinja2, itsdangerous and uvicorn ({error}): "
            "python -m pip install 'assistly[web]'"
        ) from None
    from assistly.storage.errors import ConfigurationError
    from assistly.storage.settings import load_settings
    from assistly.storage.variables import load_web_settings

    settings = load_web_settings()
    token, read_token = (
        None if secret is None else secret.get_secret_value()
        for secret in (settings.web_token, settings.web_read_token)
    )
    check_tokens(token, read_token)
    has_token = token is not None or read_token is not None
    if not has_token and not is_loopback_name(address.host):
        raise ConfigurationError(
            f"--listen {listen} is reachable from other machines: set WEB_TOKEN or WEB_READ_TOKEN to a "
            "secret that people log in with"
        )
    if load_settings().engine == "memory":
        raise ConfigurationError(
            "the memory engine lives in the process of your application: mount the page there "
            "(assistly.web.create_app), or set STORAGE_ENGINE"
        )
    make = partial(create_app, allow_changes=allow_changes, token=token, read_token=read_token, zone=zone)
    _serve(make, address, behind_proxy=has_token, owns_process=context.obj is True)


def _serve(
    make: Callable[..., Starlette], address: Address, *, behind_proxy: bool, owns_process: bool
) -> None:
    """Serve the page until a signal."""
    from assistly.web.serving import GRACE_SECONDS, PageServer, listening
    from assistly.worker.signals import stop_on_signals

    from .ending import ProcessEnd

    server: PageServer | None = None
    end = ProcessEnd(GRACE_SECONDS)

    def stop() -> None:
        if server is None:
            raise SystemExit(0)
        end.begin()
        server.stop()

    with (
        stop_on_signals(stop, pass_on=False, restore=not owns_process),
        closing(listening(address)) as listener,
        opened(Output()) as storage,
        end.limited(owns_process=owns_process),
    ):
        app = make(storage, doctor=partial(_check, owns_process=owns_process))
        log_as_text()
        server = PageServer(app, listener, behind_proxy=behind_proxy)
        server.serve_forever()


def _check(*, owns_process: bool) -> Report:
    from assistly.doctor import run

    return run(owns_process=owns_process)
