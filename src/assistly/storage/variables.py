"""Reads settings from the environment and `.env`, and words what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from .addresses import HIDDEN, may_hold_password
from .errors import ConfigurationError
from .sources import EnvFile, read_env_file, set_variables
from .validation import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class Variables(BaseModel):
    """Settings from keywords, the environment and `.env`, in this order of precedence. `load` makes them."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
    )


def read(kind: type[_Settings], file: EnvFile, named: Mapping[str, Any]) -> _Settings:
    """Return the settings. `named` are the values that were given as keywords, by variable.

    Raises ValidationError.
    """
    found = set_variables(file)
    fields = by_variable(kind).items()
    texts = {name: _decoded(field.annotation, found[name]) for name, field in fields if name in found}
    return kind.model_validate(texts | dict(named))


def _decoded(annotation: Any, text: str) -> Any:
    """A field of a plug-in that holds several values is written as JSON."""
    if not _holds_several(annotation):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _holds_several(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    if kind in (Annotated, Union, UnionType):
        return any(map(_holds_several, get_args(annotation)))
    if not isinstance(kind, type):
        return False
    return issubclass(kind, BaseModel | Collection) and not issubclass(kind, str | bytes)


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

    Raises ConfigurationError for a wrong setting, or if `.env` cannot be read.
    """
    return _load(WorkerSettings)


def load_web_settings() -> WebSettings:
    """Read the settings of the page as `load_worker_settings` does those of workers."""
    return _load(WebSettings)


def _load(kind: type[_Settings]) -> _Settings:
    file = read_env_file()
    require_readable(kind, file, {})
    try:
        return read(kind, file, {})
    except ValidationError as error:
        wrong = complaints(kind, error, {})
    raise ConfigurationError("; ".join(wrong.values()))


def require_readable(kind: type[Variables], file: EnvFile, named: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a line of `.env` that is meant to set a variable and cannot be read.

    Such a line would count as if it were not there. Those of other programs are left to them. `named` are the
    values that were given as keywords, by variable.
    """
    needed = [name for name in by_variable(kind) if name not in named and name not in os.environ]
    problems = [
        f"cannot read {name} from .env, line {number}: write {name}=value, with closed quotes or without "
        "quotes"
        for number, line in file.unreadable.items()
        for name in needed
        if re.match(rf"\s*(export\s+)?{re.escape(name)}(?![A-Za-z0-9_])", line)
    ]
    if problems:
        raise ConfigurationError("; ".join(problems))


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
