"""The one reader of the environment."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError
from .retention import RetentionPolicy
from .retry import RetryPolicy
from .validation import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

_LARGEST = 2**31 - 1


class SettingsKeywords(TypedDict, total=False):
    """The keywords of `open_storage` that stand for variables."""

    engine: str
    database_url: str | SecretStr | None
    sqlite_path: str | PathLike[str]
    pool_size: int
    schema: str
    auto_migrate: bool
    retention_approvals_days: float
    retention_max_approvals: int
    retention_idempotency_days: float
    retention_max_idempotency: int
    retention_nonces_days: float
    retention_posted_days: float | None
    retention_events_days: float | None
    retention_sessions_days: float | None
    schedule_max_retries: int
    schedule_retry_minutes: float
    schedule_worker_lock_seconds: float


def _plain(value: str) -> str:
    if "\0" in value:
        raise ValueError("NUL")
    return value


def _unset_if_blank(value: Any) -> Any:
    return None if value == "" else value


def _encodable(value: SecretStr) -> SecretStr:
    _plain(value.get_secret_value()).encode()
    return value


def _file(value: Path) -> Path:
    if not value.name:
        raise ValueError("no name")
    _plain(str(value))
    return value


def _identifier(value: str) -> str:
    if not 1 <= len(value.encode()) <= 63:
        raise ValueError("length")
    return value


def _span(unit: str, *, zero: bool) -> AfterValidator:
    def check(value: float) -> float:
        try:
            span = timedelta(**{unit: value})
        except OverflowError:
            raise ValueError("too long") from None
        if span < timedelta(0) or not (span or zero):
            raise ValueError("too short")
        return value

    return AfterValidator(check)


_Text = Annotated[str, Field(min_length=1), AfterValidator(_plain)]
_Secret = Annotated[Annotated[SecretStr, AfterValidator(_encodable)] | None, BeforeValidator(_unset_if_blank)]
_File = Annotated[Path, Field(strict=False), AfterValidator(_file)]
_Identifier = Annotated[str, AfterValidator(_plain), AfterValidator(_identifier)]
_Cap = Annotated[int, Field(ge=0, le=_LARGEST)]
_Count = Annotated[int, Field(ge=1, le=_LARGEST)]
_Days = Annotated[float, _span("days", zero=False)]
_Minutes = Annotated[float, _span("minutes", zero=True)]
_Seconds = Annotated[float, _span("seconds", zero=False)]


def _setting(variable: str, takes: str, default: Any) -> Any:
    return Field(default=default, validation_alias=variable, description=takes)


_FOREVER = "a number of days above 0, or nothing to keep them for ever"
_DAYS = "a number of days above 0"
_CAP = f"a whole number from 0 to {_LARGEST}"
_COUNT = f"a whole number from 1 to {_LARGEST}"


class _Fields(BaseModel):
    engine: _Text = _setting("STORAGE_ENGINE", "memory, sqlite, postgres or the name of a plug-in", "sqlite")
    database_url: _Secret = _setting("DATABASE_URL", "a libpq URL or conninfo string", None)
    sqlite_path: _File = _setting("SQLITE_PATH", "the path of a file", Path("data/assistly.db"))
    pool_size: _Count = _setting("STORAGE_POOL_SIZE", _COUNT, 10)
    schema_name: _Identifier = _setting(
        "STORAGE_SCHEMA", "the name of a Postgres schema: 1 to 63 bytes of text without NUL", "public"
    )
    auto_migrate: bool = _setting("STORAGE_AUTO_MIGRATE", "true or false", True)
    retention_approvals_days: _Days = _setting("RETENTION_APPROVALS_DAYS", _DAYS, 30)
    retention_max_approvals: _Cap = _setting("RETENTION_MAX_APPROVALS", _CAP, 5000)
    retention_idempotency_days: _Days = _setting("RETENTION_IDEMPOTENCY_DAYS", _DAYS, 14)
    retention_max_idempotency: _Cap = _setting("RETENTION_MAX_IDEMPOTENCY", _CAP, 10_000)
    retention_nonces_days: _Days = _setting("RETENTION_NONCES_DAYS", _DAYS, 1)
    retention_posted_days: _Days | None = _setting("RETENTION_POSTED_DAYS", _FOREVER, None)
    retention_events_days: _Days | None = _setting("RETENTION_EVENTS_DAYS", _FOREVER, None)
    retention_sessions_days: _Days | None = _setting("RETENTION_SESSIONS_DAYS", _FOREVER, None)
    schedule_max_retries: _Count = _setting("SCHEDULE_MAX_RETRIES", _COUNT, 3)
    schedule_retry_minutes: _Minutes = _setting("SCHEDULE_RETRY_MINUTES", "a number of minutes, 0 or more", 5)
    schedule_worker_lock_seconds: _Seconds = _setting(
        "SCHEDULE_WORKER_LOCK_SECONDS", "a number of seconds above 0", 45
    )


class _Keywords(_Fields):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class _Variables(PydanticBaseSettingsSource):
    """The environment over `.env`; an empty variable hides the one below and is then as good as unset."""

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


class StorageSettings(_Fields, BaseSettings):
    """Every setting, checked. Engines of third parties are called with one of these."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        case_sensitive=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
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
        return init_settings, _Variables(settings_cls, dotenv_settings, env_settings)

    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_retries=self.schedule_max_retries, delay=timedelta(minutes=self.schedule_retry_minutes)
        )

    def retention_policy(self) -> RetentionPolicy:
        return RetentionPolicy(
            approvals_age=timedelta(days=self.retention_approvals_days),
            approvals_cap=self.retention_max_approvals,
            idempotency_age=timedelta(days=self.retention_idempotency_days),
            idempotency_cap=self.retention_max_idempotency,
            nonces_age=timedelta(days=self.retention_nonces_days),
            posted_age=_optional_days(self.retention_posted_days),
            events_age=_optional_days(self.retention_events_days),
            sessions_age=_optional_days(self.retention_sessions_days),
        )

    def lock_ttl(self) -> timedelta:
        return timedelta(seconds=self.schedule_worker_lock_seconds)


def _optional_days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


_TAKES = {str(field.validation_alias): str(field.description) for field in _Fields.model_fields.values()}
_VARIABLES = {variable.lower().removeprefix("storage_"): variable for variable in _TAKES}


def load_settings(keywords: Mapping[str, Any] | None = None) -> StorageSettings:
    """The settings of the environment and `.env`, with these keywords above them.

    Raises one ConfigurationError that names everything that is wrong.
    """
    given = keywords or {}
    unknown = [repr(name) for name in given if name not in _VARIABLES]
    problems = (
        [f"no such setting: {', '.join(unknown)} (there are {', '.join(_VARIABLES)})"] if unknown else []
    )
    named = {_VARIABLES[name]: value for name, value in given.items() if name in _VARIABLES}
    problems += _keyword_problems(named)
    try:
        settings = StorageSettings(**named)
    except ValidationError as error:
        problems += [
            _complaint(variable, value, name=variable)
            for variable, value in _wrong(error).items()
            if variable not in named
        ]
    except UnicodeError:
        raise ConfigurationError("the file .env is not UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"the file .env cannot be read: {error.strerror}") from None
    if problems:
        raise ConfigurationError("; ".join(problems)) from None
    return settings


def _keyword_problems(named: Mapping[str, Any]) -> list[str]:
    try:
        _Keywords(**named)
    except ValidationError as error:
        keyword = {variable: name for name, variable in _VARIABLES.items()}
        return [
            _complaint(variable, value, name=f"{keyword[variable]} ({variable})")
            for variable, value in _wrong(error).items()
        ]
    return []


def _wrong(error: ValidationError) -> dict[str, Any]:
    return {str(detail["loc"][0]): detail["input"] for detail in error.errors(include_url=False)}


def _complaint(variable: str, value: Any, *, name: str) -> str:
    return f"{name} must be {_TAKES[variable]}; got {shown_setting(variable, value)}"


def shown_setting(variable: str, value: Any) -> str:
    """A value for a message, unless it could hold a password."""
    if isinstance(value, str | Path):
        text = str(value)
        if variable == "DATABASE_URL" or re.search("://|passw|pwd", text, re.IGNORECASE):
            return "something that may hold a password"
        return shown(text)
    return shown(value)
