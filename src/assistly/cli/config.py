"""`assistly config`."""

from __future__ import annotations

from .options import Json
from .output import Output


def config(json: Json = False) -> None:
    """Show every setting, its value, and where the value comes from. Passwords are hidden."""
    from assistly.views.config import settings_in_force

    out = Output(json=json)
    found = settings_in_force()
    if json:
        out.document({"settings": found})
        return
    rows = [(setting.variable, _shown(setting.value), setting.origin) for setting in found]
    out.table(("variable", "value", "from"), rows)


def _shown(value: str | None) -> str:
    from assistly.storage.addresses import HIDDEN

    return "not set" if value is None else "set (hidden)" if value == HIDDEN else value
