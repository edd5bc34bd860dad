"""The settings in force, and where each comes from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from assistly.storage.addresses import HIDDEN
from assistly.storage.settings import load_settings
from assistly.storage.variables import by_variable, load_web_settings, load_worker_settings, shown_setting

Origin = Literal["environment", ".env", "default"]


@dataclass(frozen=True)
class Setting:
    """A setting by its variable. `value` is a string: None if it is not set, hidden if it is a secret."""

    variable: str
    value: str | None
    origin: Origin


def settings_in_force() -> list[Setting]:
    """Return all settings of the storage, of workers and of the page.

    Raises ConfigurationError for a wrong setting, or if `.env` cannot be read.
    """
    from dotenv import dotenv_values

    found = [load_settings(), load_worker_settings(), load_web_settings()]
    file = dotenv_values(".env", encoding="utf-8") if Path(".env").is_file() else {}
    return [
        Setting(variable, _shown(variable, getattr(settings, name)), _origin(variable, file))
        for settings in found
        for name, variable in zip(type(settings).model_fields, by_variable(type(settings)), strict=True)
    ]


def _origin(variable: str, file: dict[str, str | None]) -> Origin:
    if variable in os.environ:
        return "environment" if os.environ[variable] else "default"
    return ".env" if file.get(variable) else "default"


def _shown(variable: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return HIDDEN
    return str(value) if shown_setting(variable, value) != HIDDEN else HIDDEN
