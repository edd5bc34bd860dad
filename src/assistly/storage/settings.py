"""The settings of a storage, from keywords, the environment and `.env`."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    create_model,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError
from .plugins import SETTINGS, load_plug_in
from .retention import RetentionPolicy
from .retry import RetryPolicy
from .validation import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_LARGEST = 2**31 - 1
_HIDDEN = "a value that may contain a password"


class SettingsKeywords(TypedDict, total=False):
    """The keywords of `open_storage` for settings, except the settings of plug-ins."""

    engine: str
    database_url: str | SecretStr | None
    sqlite_path: str | PathLike[str]
    pool_size: int
    schema: str
    auto_migrate: bool
    vacuum: Literal["worker", "off"]
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
_File = Annotated[Path, AfterValidator(_file)]
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


class _Variables(PydanticBaseSettingsSource):
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


class _EngineName(BaseSettings):
    """The name of the engine, which is read first: it decides which class of settings is used."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        case_sensitive=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
    )

    engine: _Text = _setting("STORAGE_ENGINE", "memory, sqlite, postgres or the name of a plug-in", "sqlite")

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


class StorageSettings(_EngineName):
    """All settings, validated. `load_settings` makes one.

    The entry point of a third party's engine is called with one of these. If it has settings of its own, it
    registers a subclass as an entry point of the group `assistly.storage_settings`, under the engine's name,
    and is called with one of that class:

        class ShelfSettings(StorageSettings):
            shelf_path: Path = Field(Path("data/shelf"), description="the path of a folder")
            shelf_size: int = Field(2**30, ge=2**20, description="a number of bytes, 1048576 or more")

        def open_shelf(settings: ShelfSettings) -> StorageBackend: ...

    A field is a keyword of `open_storage`, and in capitals a variable of the environment and of `.env`:
    `shelf_path`, SHELF_PATH. Keywords are not converted, except that a Path may be given as text. The
    description completes "SHELF_PATH must be …" in error messages.
    """

    database_url: _Secret = _setting("DATABASE_URL", "a libpq URL or conninfo string", None)
    sqlite_path: _File = _setting("SQLITE_PATH", "the path of a file", Path("data/assistly.db"))
    pool_size: _Count = _setting("STORAGE_POOL_SIZE", _COUNT, 10)
    schema_name: _Identifier = _setting(
        "STORAGE_SCHEMA", "the name of a Postgres schema: 1 to 63 bytes of text without NUL", "public"
    )
    auto_migrate: bool = _setting("STORAGE_AUTO_MIGRATE", "true or false", True)
    vacuum: Literal["worker", "off"] = _setting("STORAGE_VACUUM", "worker or off", "worker")
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

    def retry_policy(self) -> RetryPolicy:
        """The policy of the SCHEDULE_ settings."""
        return RetryPolicy(
            max_retries=self.schedule_max_retries, delay=timedelta(minutes=self.schedule_retry_minutes)
        )

    def retention_policy(self) -> RetentionPolicy:
        """The policy of the RETENTION_ settings."""
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
        """SCHEDULE_WORKER_LOCK_SECONDS as a timedelta."""
        return timedelta(seconds=self.schedule_worker_lock_seconds)


def _optional_days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def load_settings(keywords: Mapping[str, Any] | None = None, *, are_texts: bool = False) -> StorageSettings:
    """Read the settings from these keywords, the environment and `.env`, in this order of precedence.

    With `are_texts` the keywords are converted like variables of the environment, and an empty one counts
    as unset. The result is of the class that the engine registers. Raises one ConfigurationError that names
    every wrong or unknown setting.
    """
    given = keywords or {}
    if are_texts:
        given = {name: text for name, text in given.items() if text != ""}
    with _reading_env_file():
        engine = _engine_name(given)
    kind = _settings_class(engine)
    variables = _variables(kind)
    named = {variables[name]: value for name, value in given.items() if name in variables}
    unknown = _unknown(given, variables)
    wrong = {} if are_texts else _wrong_keywords(kind, named)
    try:
        with _reading_env_file():
            settings = kind(**named)
    except ValidationError as error:
        wrong = _complaints(kind, error, named) | wrong
    if unknown or wrong:
        raise ConfigurationError("; ".join([*unknown, *wrong.values()])) from None
    return settings


@contextmanager
def _reading_env_file() -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise ConfigurationError("the file .env is not UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"the file .env cannot be read: {error.strerror}") from None


def _engine_name(given: Mapping[str, Any]) -> str:
    """The name of the engine; empty if it is wrong, which the validation of all settings reports."""
    try:
        return _EngineName(**({"STORAGE_ENGINE": given["engine"]} if "engine" in given else {})).engine
    except ValidationError:
        return ""


def _settings_class(engine: str) -> type[StorageSettings]:
    kind = load_plug_in(SETTINGS, engine)
    if kind is None:
        return StorageSettings
    if not (isinstance(kind, type) and issubclass(kind, StorageSettings)):
        raise ConfigurationError(
            f"STORAGE_ENGINE: the settings of the plug-in {engine!r} must be a subclass of StorageSettings"
        )
    return kind


def _by_variable(kind: type[StorageSettings]) -> dict[str, FieldInfo]:
    return {str(field.validation_alias): field for field in kind.model_fields.values()}


def _keyword(variable: str) -> str:
    return variable.lower().removeprefix("storage_")


def _variables(kind: type[StorageSettings]) -> dict[str, str]:
    """The variable for each keyword."""
    return {_keyword(variable): variable for variable in _by_variable(kind)}


def _unknown(given: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    unknown = [repr(name) for name in given if name not in variables]
    return [f"no such setting: {', '.join(unknown)} (there are {', '.join(variables)})"] if unknown else []


def _wrong_keywords(kind: type[StorageSettings], named: Mapping[str, Any]) -> dict[str, str]:
    """Messages about wrong keywords, by variable. The text of a variable is converted; a keyword is not."""
    definitions: dict[str, Any] = {}
    for variable, field in _by_variable(kind).items():
        if variable in named:
            value = field.rebuild_annotation()
            if field.annotation is Path:
                value = Annotated[value, Field(strict=False)]
            definitions[f"field_{len(definitions)}"] = (value, Field(validation_alias=variable))
    config = ConfigDict(strict=True, hide_input_in_errors=True)
    try:
        create_model("Keywords", __config__=config, **definitions)(**named)
    except ValidationError as error:
        return _complaints(kind, error, named)
    return {}


def _complaints(
    kind: type[StorageSettings], error: ValidationError, named: Mapping[str, Any]
) -> dict[str, str]:
    """Messages by variable; under an empty name those about no single variable."""
    fields = _by_variable(kind)
    complaints: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        variable = str(detail["loc"][0]) if detail["loc"] else ""
        if variable in fields:
            name = f"{_keyword(variable)} ({variable})" if variable in named else variable
            complaints[variable] = f"{name} {_complaint(variable, fields[variable], detail)}"
        else:
            complaints[variable] = f"the settings are wrong: {detail['msg']}"
    return complaints


def _complaint(variable: str, field: FieldInfo, detail: ErrorDetails) -> str:
    takes = f"must be {field.description}" if field.description else f"is wrong ({detail['msg']})"
    if detail["type"] == "missing":
        return f"is not set: it {takes}"
    if "Secret" in repr(field.annotation):
        return f"{takes}; got {_HIDDEN}"
    return f"{takes}; got {shown_setting(variable, detail['input'])}"


def shown_setting(variable: str, value: Any) -> str:
    """Return a value as text for a message, or a placeholder if it may contain a password."""
    if isinstance(value, str | Path):
        text = str(value)
        if variable == "DATABASE_URL" or re.search("://|passw|pwd", text, re.IGNORECASE):
            return _HIDDEN
        return shown(text)
    return shown(value)
