"""The settings of a storage, from keywords, the environment and `.env`."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from .addresses import path_problem, scheme_of
from .errors import ConfigurationError
from .plain_settings import DEFAULT_ENGINE, DEFAULT_PATH, DEFAULT_POOL_SIZE
from .plugins import SETTINGS, load_plug_in
from .retention import RetentionPolicy
from .retry import RetryPolicy
from .sources import EnvFile, read_env_file
from .variables import (
    ADVICE,
    Secret,
    Variables,
    by_variable,
    complaints,
    keyword_of,
    read,
    require_readable,
    setting,
    without_nul,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 2**31 - 1


def _engine_name(value: str) -> str:
    without_nul(value)
    if re.search(r"[:=@\s]", value):
        raise PydanticCustomError(
            ADVICE,
            "it must be the name of an engine (memory, sqlite, postgres); put a URL into DATABASE_URL",
        )
    return value


def _no_address(value: Any) -> Any:
    problem = path_problem(str(value)) if isinstance(value, str | Path) else None
    if problem:
        raise PydanticCustomError(ADVICE, "{problem}", {"problem": problem})
    return value


def _file(value: Path) -> Path:
    if not value.name:
        raise ValueError("no name")
    without_nul(str(value))
    return value


def _identifier(value: str) -> str:
    without_nul(value)
    if not 1 <= len(value.encode()) <= 63 or "://" in value:
        raise ValueError("no name")
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


_Engine = Annotated[
    str, Field(min_length=1), AfterValidator(_engine_name)
]  # pydantic 2.11.0 drops all but one
_File = Annotated[Path, BeforeValidator(_no_address), AfterValidator(_file)]
_Identifier = Annotated[str, AfterValidator(_identifier)]
_Cap = Annotated[int, Field(ge=0, le=_LARGEST)]
_Count = Annotated[int, Field(ge=1, le=_LARGEST)]
_Days = Annotated[float, _span("days", zero=False)]
_Minutes = Annotated[float, _span("minutes", zero=True)]
_Seconds = Annotated[float, _span("seconds", zero=False)]


_FOREVER = "a number of days above 0, or nothing to keep them for ever"
_DAYS = "a number of days above 0"
_CAP = f"a whole number from 0 to {_LARGEST}"
_COUNT = f"a whole number from 1 to {_LARGEST}"


class _EngineName(Variables):
    """The name of the engine, which is read first: it decides which class of settings is used."""

    engine: _Engine = setting(
        "STORAGE_ENGINE", "memory, sqlite, postgres or the name of a plug-in", DEFAULT_ENGINE
    )


class StorageSettings(_EngineName):
    """All settings, validated. `load_settings` returns an instance.

    The entry point of a third-party engine is called with an instance. An engine with its own settings
    registers a subclass as an entry point of the group `assistly.storage_settings`, under the engine's name,
    and is called with an instance of that class:

        class ShelfSettings(StorageSettings):
            shelf_path: Path = Field(Path("data/shelf"), description="the path of a folder")
            shelf_size: int = Field(2**30, ge=2**20, description="a number of bytes, 1048576 or more")

        def open_shelf(settings: ShelfSettings) -> StorageBackend: ...

    A field is a keyword of `open_storage`, and in upper case a variable of the environment and of `.env`:
    `shelf_path`, SHELF_PATH. Keywords are not converted, except that a Path may be given as a str. The
    description completes "SHELF_PATH must be …" in error messages.
    """

    database_url: Secret = setting("DATABASE_URL", "a libpq URL or conninfo string", None)
    sqlite_path: _File = setting("SQLITE_PATH", "the path of a file", Path(DEFAULT_PATH))
    pool_size: _Count = setting("STORAGE_POOL_SIZE", _COUNT, DEFAULT_POOL_SIZE)
    schema_name: _Identifier = setting(
        "STORAGE_SCHEMA", "the name of a Postgres schema: 1 to 63 bytes of text without NUL", "public"
    )
    auto_migrate: bool = setting("STORAGE_AUTO_MIGRATE", "true or false", True)
    timeout_seconds: _Seconds = setting("STORAGE_TIMEOUT_SECONDS", "a number of seconds above 0", 30)
    vacuum: Literal["worker", "off"] = setting("STORAGE_VACUUM", "worker or off", "worker")
    retention_approvals_days: _Days = setting("RETENTION_APPROVALS_DAYS", _DAYS, 30)
    retention_max_approvals: _Cap = setting("RETENTION_MAX_APPROVALS", _CAP, 5000)
    retention_idempotency_days: _Days = setting("RETENTION_IDEMPOTENCY_DAYS", _DAYS, 14)
    retention_max_idempotency: _Cap = setting("RETENTION_MAX_IDEMPOTENCY", _CAP, 10_000)
    retention_nonces_days: _Days = setting("RETENTION_NONCES_DAYS", _DAYS, 1)
    retention_posted_days: _Days | None = setting("RETENTION_POSTED_DAYS", _FOREVER, None)
    retention_events_days: _Days | None = setting("RETENTION_EVENTS_DAYS", _FOREVER, None)
    retention_sessions_days: _Days | None = setting("RETENTION_SESSIONS_DAYS", _FOREVER, None)
    schedule_max_retries: _Count = setting("SCHEDULE_MAX_RETRIES", _COUNT, 3)
    schedule_retry_minutes: _Minutes = setting("SCHEDULE_RETRY_MINUTES", "a number of minutes, 0 or more", 5)
    schedule_worker_lock_seconds: _Seconds = setting(
        "SCHEDULE_WORKER_LOCK_SECONDS", "a number of seconds above 0", 45
    )

    def retry_policy(self) -> RetryPolicy:
        """The policy of the `SCHEDULE_…` settings."""
        return RetryPolicy(
            max_retries=self.schedule_max_retries, delay=timedelta(minutes=self.schedule_retry_minutes)
        )

    def retention_policy(self) -> RetentionPolicy:
        """The policy of the `RETENTION_…` settings."""
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

    def timeout(self) -> timedelta:
        """STORAGE_TIMEOUT_SECONDS as a timedelta."""
        return timedelta(seconds=self.timeout_seconds)

    def lock_ttl(self) -> timedelta:
        """SCHEDULE_WORKER_LOCK_SECONDS as a timedelta."""
        return timedelta(seconds=self.schedule_worker_lock_seconds)


def _optional_days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def load_settings(keywords: Mapping[str, Any] | None = None, *, are_texts: bool = False) -> StorageSettings:
    """Read the settings from these keywords, the environment and `.env`, in this order of precedence.

    With `are_texts`, the keywords are converted like environment variables, and an empty one counts as not
    set. The result is an instance of the class that the engine registers. Raises one ConfigurationError that
    names every wrong or unknown setting.
    """
    given = keywords or {}
    if are_texts:
        given = {name: text for name, text in given.items() if text != ""}
    file = read_env_file()
    kind = _settings_class(_named_engine(file, given))
    variables = _variables(kind)
    named = {variables[name]: value for name, value in given.items() if name in variables}
    unknown = _unknown(given, variables)
    wrong = {} if are_texts else _wrong_keywords(kind, named)
    try:
        require_readable(kind, file, named)
        settings = read(kind, file, named)
    except ValidationError as error:
        wrong = complaints(kind, error, named) | wrong
    else:
        wrong = _wrong_url(settings) | wrong
    if unknown or wrong:
        raise ConfigurationError("; ".join([*unknown, *wrong.values()]))
    return settings


def _named_engine(file: EnvFile, given: Mapping[str, Any]) -> str:
    """The name of the engine; empty if it is wrong, which the validation of all settings reports."""
    try:
        return read(
            _EngineName, file, {"STORAGE_ENGINE": given["engine"]} if "engine" in given else {}
        ).engine
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


def _wrong_url(settings: StorageSettings) -> dict[str, str]:
    """What is wrong with DATABASE_URL beside STORAGE_ENGINE, by variable."""
    secret = settings.database_url
    url = "" if secret is None else secret.get_secret_value().strip()
    scheme = scheme_of(url)
    if url and "engine" not in settings.model_fields_set:
        return {"STORAGE_ENGINE": _which_engine(scheme)}
    if settings.engine == "postgres" and scheme not in ("", "postgres", "postgresql"):
        return {"DATABASE_URL": f"DATABASE_URL: {_other_scheme(scheme)}"}
    return {}


def _which_engine(scheme: str) -> str:
    own = "if DATABASE_URL belongs to your application, set STORAGE_ENGINE=sqlite (or memory)"
    if scheme.startswith("sqlite"):
        use = "For SQLite set STORAGE_ENGINE=sqlite, and the path of the file in SQLITE_PATH"
    elif scheme in ("", "postgres", "postgresql") or scheme.startswith("postgresql+"):
        use = "To use that database set STORAGE_ENGINE=postgres"
    else:
        use = f"There is no engine for {scheme}:// URLs"
    return (
        f"DATABASE_URL is set, but STORAGE_ENGINE is not: the engine is ambiguous. {use}; {own}. "
        "In code: open_storage(engine=…)"
    )


def _other_scheme(scheme: str) -> str:
    if scheme.startswith("postgres"):
        return f"write postgresql:// instead of {scheme}://, without the name of a driver"
    hint = "; for SQLite set STORAGE_ENGINE=sqlite and SQLITE_PATH" if scheme.startswith("sqlite") else ""
    return f"the engine postgres takes postgresql://…, but this begins with {scheme}://{hint}"


def _variables(kind: type[StorageSettings]) -> dict[str, str]:
    """The variable for each keyword."""
    return {keyword_of(variable): variable for variable in by_variable(kind)}


def _unknown(given: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    unknown = [repr(name) for name in given if name not in variables]
    return [f"no such setting: {', '.join(unknown)} (there are {', '.join(variables)})"] if unknown else []


def _wrong_keywords(kind: type[StorageSettings], named: Mapping[str, Any]) -> dict[str, str]:
    """Messages about wrong keywords, by variable. The text of a variable is converted; a keyword is not."""
    definitions: dict[str, Any] = {}
    for variable, field in by_variable(kind).items():
        if variable in named:
            value = field.rebuild_annotation()
            if field.annotation is Path:
                value = Annotated[value, Field(strict=False)]
            definitions[f"field_{len(definitions)}"] = (value, Field(validation_alias=variable))
    config = ConfigDict(strict=True, hide_input_in_errors=True)
    try:
        create_model("Keywords", __config__=config, **definitions)(**named)
    except ValidationError as error:
        return complaints(kind, error, named)
    return {}
