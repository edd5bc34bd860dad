"""Reads settings from the environment and `.env`, and words what is wrong with them."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasGenerator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .addresses import HIDDEN, may_hold_password
from .errors import ConfigurationError
from .validation import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ADVICE = "assistly_advice"
"""The type of a pydantic error whose message is shown as it is, after the name of the setting."""


def without_nul(value: str) -> str:
    """Raise ValueError for a text with NUL."""
    if "\0" in value:
        raise ValueError("NUL")
    return value


def _unset_if_blank(value: Any) -> Any:
    return None if value == "" else value


def _encodable(value: SecretStr) -> SecretStr:
    without_nul(value.get_secret_value()).encode()
    return value


_Settings = TypeVar("_Settings", bound="Variables")

Secret = Annotated[Annotated[SecretStr, AfterValidator(_encodable)] | None, BeforeValidator(_unset_if_blank)]
"""A text that is never shown; None if it is unset or empty."""


def setting(variable: str, takes: str, default: Any) -> Any:
    """A field that is read from `variable`. "It must be `takes`" completes messages."""
    return Field(default=default, validation_alias=variable, description=takes)


class _Layers(PydanticBaseSettingsSource):
    """The environment, then `.env`. An empty variable hides the same one in `.env`, and counts as unset."""

    def __init__(self, settings: type[BaseSettings], *layers: PydanticBaseSettingsSource) -> None:
        super().__init__(settings)
        self._layers = layers

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - abstract in the base
        raise AttributeError(field_name)

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for layer in self._layers:
            found |= layer()
        return {name: value for name, value in found.items() if value != ""}


class Variables(BaseSettings):
    """Settings from keywords, the environment and `.env`, in this order of precedence."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        case_sensitive=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Layers(settings_cls, dotenv_settings, env_settings)


class WorkerSettings(Variables):
    """The settings of `assistly worker` that are not options. `load_worker_settings` makes one."""

    webhook_secret: Secret = setting("WEBHOOK_SECRET", "a text without NUL", None)
    webhook_status_url: Secret = setting("WEBHOOK_STATUS_URL", "a URL without NUL", None)


class WebSettings(Variables):
    """The settings of `assistly web` that are not options. `load_web_settings` makes one."""

    web_token: Secret = setting("WEB_TOKEN", "a text without NUL", None)
    web_read_token: Secret = setting("WEB_READ_TOKEN", "a text without NUL", None)


def load_worker_settings() -> WorkerSettings:
    """Read the worker's settings from the environment and `.env`; the environment comes first.

    Raises ConfigurationError for a wrong setting, and for a `.env` that cannot be read.
    """
    return _load(WorkerSettings)


def load_web_settings() -> WebSettings:
    """Read the settings of the page as `load_worker_settings` does those of workers."""
    return _load(WebSettings)


def _load(kind: type[_Settings]) -> _Settings:
    try:
        with reading_env_file():
            require_readable(kind, {})
            return kind()
    except ValidationError as error:
        wrong = complaints(kind, error, {})
    raise ConfigurationError("; ".join(wrong.values()))


@contextmanager
def reading_env_file() -> Iterator[None]:
    """Raise ConfigurationError if `.env` cannot be read in the block."""
    problem = ""
    try:
        yield
    except UnicodeError:
        problem = "the file .env is not UTF-8"
    except OSError as error:
        problem = f"the file .env cannot be read: {error.strerror}"
    if problem:
        raise ConfigurationError(problem)


def require_readable(kind: type[Variables], named: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a line of `.env` that is meant to set a variable and cannot be read.

    Such a line would count as if it were not there. Those of other programs are left to them. `named` are the
    values that were given as keywords, by variable.
    """
    needed = [name for name in by_variable(kind) if name not in named and name not in os.environ]
    problems = [
        f"{name} cannot be read from .env, line {number}: write {name}=value, in quotes that are closed or "
        "without quotes"
        for number, line in _unreadable_lines()
        for name in needed
        if re.match(rf"\s*(export\s+)?{re.escape(name)}(?![A-Za-z0-9_])", line)
    ]
    if problems:
        raise ConfigurationError("; ".join(problems))


def _unreadable_lines() -> list[tuple[int, str]]:
    path = Path(".env")
    if not path.is_file():
        return []
    from dotenv.parser import parse_stream

    with path.open(encoding="utf-8") as file:
        found = [binding.original for binding in parse_stream(file) if binding.error]
    return [(original.line, original.string) for original in found]


def by_variable(kind: type[Variables]) -> dict[str, FieldInfo]:
    """The fields of a class of settings, by variable."""
    return {str(field.validation_alias): field for field in kind.model_fields.values()}


def keyword_of(variable: str) -> str:
    """The keyword of `open_storage` for a variable."""
    return variable.lower().removeprefix("storage_")


def complaints(kind: type[Variables], error: ValidationError, named: Mapping[str, Any]) -> dict[str, str]:
    """Messages by variable; under an empty name those about no single variable.

    `named` are the values that were given as keywords, by variable.
    """
    fields = by_variable(kind)
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        variable = str(detail["loc"][0]) if detail["loc"] else ""
        if variable in fields:
            name = f"{keyword_of(variable)} ({variable})" if variable in named else variable
            found[variable] = f"{name}{_complaint(variable, fields[variable], detail)}"
        else:
            found[variable] = f"the settings are wrong: {detail['msg']}"
    return found


def _complaint(variable: str, field: FieldInfo, detail: ErrorDetails) -> str:
    if detail["type"] == ADVICE:
        return f": {detail['msg']}"
    takes = f"must be {field.description}" if field.description else f"is wrong ({detail['msg']})"
    if detail["type"] == "missing":
        return f" is not set: it {takes}"
    if "Secret" in repr(field.annotation):
        return f" {takes}; got {HIDDEN}"
    return f" {takes}; got {shown_setting(variable, detail['input'])}"


def shown_setting(variable: str, value: Any) -> str:
    """Return a value as text for a message, or a placeholder if it may contain a password."""
    if isinstance(value, str | Path):
        text = str(value)
        return HIDDEN if variable == "DATABASE_URL" or may_hold_password(text) else shown(text)
    return shown(value)
