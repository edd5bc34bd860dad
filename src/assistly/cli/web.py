"""`assistly web`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .opening import opened, storage_place
from .output import Output
from .values import listen_address

if TYPE_CHECKING:
    from assistly.doctor.runner import Report


def web(
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="A port of this machine, or HOST:PORT. Elsewhere than on loopback WEB_TOKEN must be set.",
        ),
    ] = "8765",
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Let people approve, resolve, replay and pause. Default: only look.",
        ),
    ] = False,
    zone: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="The time zone for who has chosen none. Default: the local one."),
    ] = None,
) -> None:
    """Serve a page that shows what is due and what is wrong, until Ctrl-C.

    It is for this machine alone, unless WEB_TOKEN or WEB_READ_TOKEN is set (in the environment or `.env`; at
    least 16 characters): then people log in with one of them, and WEB_READ_TOKEN lets them only look. It
    speaks plain HTTP: put a proxy with TLS in front of it before others reach it over a network. It needs the
    extra `web`.
    """
    host, port = listen_address(listen)
    try:
        from assistly.web.app import create_app
        from assistly.web.serving import is_loopback, serve
    except ImportError as error:
        from assistly.storage.errors import ConfigurationError

        raise ConfigurationError(
            f"`assistly web` needs starlette, jinja2, itsdangerous and uvicorn ({error}): "
            "python -m pip install 'assistly[web]'"
        ) from None
    from assistly.storage.errors import ConfigurationError
    from assistly.storage.variables import load_web_settings

    settings = load_web_settings()
    token, read_token = (
        None if secret is None else secret.get_secret_value()
        for secret in (settings.web_token, settings.web_read_token)
    )
    has_token = token is not None or read_token is not None
    if not has_token and not is_loopback(host):
        raise ConfigurationError(
            f"--listen {listen} can be reached from elsewhere: set WEB_TOKEN (or WEB_READ_TOKEN) to a secret "
            "text, with which people log in"
        )
    out = Output()
    with opened(out) as storage:
        app = create_app(
            storage,
            allow_changes=allow_changes,
            token=token,
            read_token=read_token,
            zone=zone,
            doctor=_check,
        )
        _log_to_stderr()
        serve(app, host, port, behind_proxy=has_token)


def _check() -> Report:
    from assistly.doctor.runner import run_checks

    return run_checks((), storage_place)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
