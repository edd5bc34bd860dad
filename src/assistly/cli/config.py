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
    rows = [
        (setting.variable, "not set" if setting.value is None else setting.value, setting.origin)
        for setting in found
    ]
    out.table(("variable", "value", "from"), rows)
