from __future__ import annotations

from datetime import timedelta
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr, field_validator, model_validator

from assistly.storage import plain_settings as plain_settings_module
from assistly.storage import plugins
from assistly.storage.errors import ConfigurationError
from assistly.storage.keywords import SettingsKeywords
from assistly.storage.plain_settings import PlainSettings, plain_settings
from assistly.storage.retention import RetentionPolicy
from assistly.storage.retry import RetryPolicy
from assistly.storage.settings import StorageSettings, load_settings
from assistly.storage.variables import load_worker_settings

VARIABLES = {
    "STORAGE_ENGINE",
    "DATABASE_URL",
    "SQLITE_PATH",
    "STORAGE_POOL_SIZE",
    "STORAGE_SCHEMA",
    "STORAGE_AUTO_MIGRATE",
    "STORAGE_TIMEOUT_SECONDS",
    "STORAGE_VACUUM",
    "RETENTION_APPROVALS_DAYS",
    "RETENTION_MAX_APPROVALS",
    "RETENTION_IDEMPOTENCY_DAYS",
    "RETENTION_MAX_IDEMPOTENCY",
    "RETENTION_NONCES_DAYS",
    "RETENTION_POSTED_DAYS",
    "RETENTION_EVENTS_DAYS",
    "RETENTION_SESSIONS_DAYS",
    "SCHEDULE_MAX_RETRIES",
    "SCHEDULE_RETRY_MINUTES",
    "SCHEDULE_WORKER_LOCK_SECONDS",
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(**keywords: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    assert settings.engine == "sqlite"
    assert settings.database_url is None
    assert settings.sqlite_path == Path("data/assistly.db")
    assert (settings.pool_size, settings.schema_name, settings.auto_migrate) == (10, "public", True)
    assert settings.timeout() == timedelta(seconds=30)
    assert settings.vacuum == "worker"
    assert settings.retry_policy() == RetryPolicy(max_retries=3, delay=timedelta(minutes=5))
    assert settings.lock_ttl() == timedelta(seconds=45)
    assert settings.retention_policy() == RetentionPolicy(
        approvals_age=timedelta(days=30),
        approvals_cap=5000,
        idempotency_age=timedelta(days=14),
        idempotency_cap=10000,
        nonces_age=timedelta(days=1),
        posted_age=None,
        events_age=None,
        sessions_age=None,
    )


def test_a_keyword_is_its_variable_in_lower_case_without_storage() -> None:
    keywords = {variable.lower().removeprefix("storage_") for variable in VARIABLES}
    assert keywords == set(SettingsKeywords.__annotations__)


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = dict.fromkeys(VARIABLES, "7") | {"STORAGE_AUTO_MIGRATE": "no", "STORAGE_VACUUM": "off"}
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    dumped = load_settings().model_dump(mode="json")
    assert dumped.pop("database_url") == "**********"
    assert dumped.pop("auto_migrate") is False
    assert (dumped.pop("vacuum"), dumped.pop("engine")) == ("off", "memory")
    assert {str(value) for value in dumped.values()} == {"7", "7.0"}


def test_keywords_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("STORAGE_POOL_SIZE=1\nSCHEDULE_MAX_RETRIES=1\nSTORAGE_SCHEMA=one\nUNRELATED=1\n")
    monkeypatch.setenv("STORAGE_POOL_SIZE", "2")
    monkeypatch.setenv("SCHEDULE_MAX_RETRIES", "2")
    settings = load_settings({"pool_size": 3})
    assert (settings.pool_size, settings.schedule_max_retries, settings.schema_name) == (3, 2, "one")


def test_an_empty_variable_is_unset_and_hides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("RETENTION_POSTED_DAYS=3\nRETENTION_EVENTS_DAYS=\n")
    for variable in ("RETENTION_POSTED_DAYS", "DATABASE_URL", "STORAGE_ENGINE"):
        monkeypatch.setenv(variable, "")
    settings = load_settings({"database_url": ""})
    assert settings.retention_posted_days is None
    assert settings.retention_events_days is None
    assert settings.database_url is None
    assert settings.engine == "sqlite"


def test_none_as_a_keyword_hides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_POSTED_DAYS", "3")
    assert load_settings({"retention_posted_days": None}).retention_posted_days is None


def test_days_and_minutes_may_be_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_NONCES_DAYS", "0.5")
    settings = load_settings({"schedule_retry_minutes": 0, "retention_events_days": 1.5})
    assert settings.retention_policy().nonces_age == timedelta(hours=12)
    assert settings.retention_policy().events_age == timedelta(hours=36)
    assert settings.retry_policy().delay == timedelta(0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STORAGE_POOL_SIZE", "0"),
        ("STORAGE_POOL_SIZE", "ten"),
        ("STORAGE_POOL_SIZE", "1.5"),
        ("STORAGE_AUTO_MIGRATE", "maybe"),
        ("STORAGE_TIMEOUT_SECONDS", "0"),
        ("STORAGE_TIMEOUT_SECONDS", "-1"),
        ("STORAGE_TIMEOUT_SECONDS", "nan"),
        ("STORAGE_VACUUM", "always"),
        ("STORAGE_SCHEMA", "s" * 64),
        ("SQLITE_PATH", "."),
        ("RETENTION_APPROVALS_DAYS", "0"),
        ("RETENTION_APPROVALS_DAYS", "-1"),
        ("RETENTION_NONCES_DAYS", "nan"),
        ("RETENTION_NONCES_DAYS", "inf"),
        ("RETENTION_NONCES_DAYS", "1e12"),
        ("RETENTION_NONCES_DAYS", "1e-12"),
        ("RETENTION_POSTED_DAYS", "soon"),
        ("RETENTION_MAX_APPROVALS", "-1"),
        ("RETENTION_MAX_IDEMPOTENCY", "99999999999"),
        ("SCHEDULE_MAX_RETRIES", "0"),
        ("SCHEDULE_RETRY_MINUTES", "-0.1"),
        ("SCHEDULE_WORKER_LOCK_SECONDS", "0"),
    ],
)
def test_a_bad_variable_is_named_with_what_it_got(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    message = refusal()
    assert message.startswith(f"{variable} must be ")
    assert f"got '{value[:60]}'" in message


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("engine", None),
        ("engine", ""),
        ("engine", 5),
        ("engine", "a\0b"),
        ("pool_size", "10"),
        ("pool_size", True),
        ("pool_size", 1.0),
        pytest.param("pool_size", 10**5000, id="huge"),
        ("auto_migrate", 1),
        ("auto_migrate", "true"),
        ("vacuum", "always"),
        ("vacuum", True),
        ("sqlite_path", 5),
        ("sqlite_path", b"x"),
        ("sqlite_path", ""),
        ("sqlite_path", "a\0b"),
        ("schema", ""),
        ("schema", "é" * 32),
        ("schema", "a\0b"),
        ("schema", "\ud800"),
        ("database_url", 5),
        ("database_url", "\ud800"),
        ("retention_nonces_days", "1"),
        ("retention_nonces_days", timedelta(days=1)),
        ("retention_nonces_days", float("nan")),
        ("retention_nonces_days", None),
        ("schedule_retry_minutes", [5]),
    ],
)
def test_keywords_are_not_coerced(keyword: str, value: Any) -> None:
    assert refusal(**{keyword: value}).startswith(f"{keyword} (")


def test_all_that_is_wrong_is_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_POOL_SIZE", "x")
    monkeypatch.setenv("RETENTION_NONCES_DAYS", "x")
    message = refusal(pool_size=0, color="blue")
    assert "no such setting: 'color' (there are engine, database_url" in message
    assert "pool_size (STORAGE_POOL_SIZE) must be a whole number" in message
    assert "RETENTION_NONCES_DAYS must be a number" in message
    assert message.count("STORAGE_POOL_SIZE") == 1


def test_a_good_keyword_hides_a_bad_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_POOL_SIZE", "x")
    assert load_settings({"pool_size": 2}).pool_size == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "postgres://me:hunter2@host/\0"),
        ("STORAGE_SCHEMA", "postgres://me:hunter2@host/" + "d" * 60),
        ("STORAGE_POOL_SIZE", "host=h password=hunter2"),
    ],
)
def test_passwords_are_never_shown(variable: str, value: str) -> None:
    message = refusal(**{variable.lower().removeprefix("storage_"): value})
    assert variable in message
    assert "hunter2" not in message


def test_repr_hides_the_database_url() -> None:
    keywords = {"engine": "postgres", "database_url": "postgres://me:hunter2@host/d"}
    assert "hunter2" not in repr(load_settings(keywords))


@pytest.mark.parametrize(
    "address",
    [
        "postgres://me:Q@host/d",
        "postgresql://me:a%20Q@host:5432/d?sslmode=require",
        "host=h user=me password=Q dbname=d",
        "host = h password = 'x \\' Q'",
        "me:Q@host/d",
        "mysql+pymysql://me:Q@host/d",
        "sqlite+pysqlcipher://:Q@/x.db",
    ],
)
@pytest.mark.parametrize(
    "variable", ["SQLITE_PATH", "STORAGE_ENGINE", "STORAGE_SCHEMA", "STORAGE_POOL_SIZE", "STORAGE_VACUUM"]
)
def test_no_part_of_an_address_is_shown_wherever_it_was_put(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    monkeypatch.setenv(variable, address)
    shown = []
    try:
        shown.append(repr(load_settings()) if variable != "SQLITE_PATH" else "")
    except ConfigurationError as error:
        link: BaseException | None = error
        while link is not None:
            shown.append(f"{link} {link!r}")
            link = link.__cause__ or link.__context__
    if variable == "STORAGE_SCHEMA" and "://" not in address:
        return  # the name of a schema may have any characters
    assert "Q" not in "".join(shown)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sqlite:///data/x.db", "write the path alone, 'data/x.db'"),
        ("sqlite:////srv/x.db", "write the path alone, '/srv/x.db'"),
        ("sqlite+aiosqlite:///x.db?timeout=5", "write the path alone, 'x.db'"),
        ("sqlite:x.db", "write the path alone, 'x.db'"),
        ("file:x.db?mode=rwc", "write the path alone, 'x.db'"),
        ("file:///srv/a%20b.db", "write the path alone, '/srv/a b.db'"),
        ("file::memory:?cache=shared", "STORAGE_ENGINE=memory"),
        ("sqlite://", "STORAGE_ENGINE=memory"),
        (":memory:", "STORAGE_ENGINE=memory"),
        ("postgres://host/d", "STORAGE_ENGINE=postgres and DATABASE_URL"),
        ("postgresql+asyncpg://host/d", "STORAGE_ENGINE=postgres and DATABASE_URL"),
        ("host=h dbname=d", "STORAGE_ENGINE=postgres and DATABASE_URL"),
        ("me:Q@host/d", "STORAGE_ENGINE=postgres and DATABASE_URL"),
        ("mysql://host/d", "give the path of a file"),
        ("https://host/x.db", "give the path of a file"),
    ],
)
def test_a_url_is_no_path(monkeypatch: pytest.MonkeyPatch, text: str, hint: str) -> None:
    message = refusal(sqlite_path=text)
    assert message.startswith("sqlite_path (SQLITE_PATH): ")
    assert hint in message
    monkeypatch.setenv("SQLITE_PATH", text)
    assert hint in refusal()


@pytest.mark.parametrize(
    "text", ["C:\\data\\x.db", "a:b.db", "data/bot:1.db", "~/x.db", "file", "./port=1.db"]
)
def test_odd_paths(text: str) -> None:
    assert load_settings({"sqlite_path": text}).sqlite_path == Path(text)


class TestWhichEngine:
    """DATABASE_URL without STORAGE_ENGINE, or of another scheme than the engine's."""

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("postgres://me:Q@h/d", "STORAGE_ENGINE=postgres"),
            ("host=h password=Q", "STORAGE_ENGINE=postgres"),
            ("sqlite:///x.db", "SQLITE_PATH"),
            ("mysql://me:Q@h/d", "no engine for mysql://"),
        ],
    )
    def test_it_is_asked(self, monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
        messages = [refusal(database_url=url)]
        Path(".env").write_text(f"DATABASE_URL={url!r}\n")
        messages.append(refusal())
        Path(".env").unlink()
        monkeypatch.setenv("DATABASE_URL", url)
        messages += [refusal(), refusal(sqlite_path="x.db")]
        monkeypatch.setenv("STORAGE_ENGINE", "")
        messages.append(refusal())
        for message in messages:
            assert "the engine is ambiguous" in message
            assert words in message
            assert "STORAGE_ENGINE=sqlite" in message
            assert "Q" not in message.replace("SQLITE", "").replace("SQLite", "")

    @pytest.mark.parametrize("engine", ["sqlite", "memory"])
    def test_the_applications_own(self, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
        monkeypatch.setenv("DATABASE_URL", "mysql://me:Q@h/d")
        assert load_settings({"engine": engine}).engine == engine
        Path(".env").write_text(f"STORAGE_ENGINE={engine}\n")
        assert load_settings().engine == engine

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("mysql://me:Q@h/d", "begins with mysql://"),
            ("sqlite:///x.db", "STORAGE_ENGINE=sqlite and SQLITE_PATH"),
            ("postgresql+psycopg://me:Q@h/d", "write postgresql:// instead"),
        ],
    )
    def test_another_scheme(self, url: str, words: str) -> None:
        message = refusal(engine="postgres", database_url=url)
        assert message.startswith("DATABASE_URL: ")
        assert words in message
        assert "Q" not in message.replace("SQLITE", "").replace("SQLite", "")

    @pytest.mark.parametrize("url", ["postgres://h/d", "POSTGRESQL://h/d", "host=h", "dbname=a://b", " "])
    def test_what_libpq_takes(self, url: str) -> None:
        assert load_settings({"engine": "postgres", "database_url": url}).engine == "postgres"


PLAIN_TEXTS = [
    *(
        "",
        " ",
        "sqlite",
        "memory",
        "postgres",
        "Sqlite",
        "shelf",
        "x.db",
        "a b/é.db",
        "./port=1.db",
        ".",
        "/",
    ),
    *("..", "a/", "a\nb", "~/x.db", ":memory:", "sqlite:///x.db", "host=h", "me:Q@host/d", "10", "a:b.db"),
]


class TestPlainSettings:
    """What is read without pydantic is what is read with it."""

    @given(
        keywords=st.fixed_dictionaries(
            {},
            optional={
                "engine": st.sampled_from([*PLAIN_TEXTS, None, 5]),
                "sqlite_path": st.sampled_from([*PLAIN_TEXTS, *map(Path, PLAIN_TEXTS), b"x", None])
                | st.text(max_size=4),
                "pool_size": st.just(10),
                "color": st.just("blue"),
            },
        ),
        environment=st.dictionaries(
            st.sampled_from(["STORAGE_ENGINE", "SQLITE_PATH", "DATABASE_URL", "STORAGE_POOL_SIZE", "COLOR"]),
            st.sampled_from(PLAIN_TEXTS),
        ),
        file=st.none()
        | st.lists(
            st.sampled_from(
                [
                    *("STORAGE_ENGINE=memory", "STORAGE_ENGINE=", "STORAGE_ENGINE", 'STORAGE_ENGINE="memory'),
                    *(
                        "export SQLITE_PATH='of file.db'",
                        "SQLITE_PATH=${COLOR}.db",
                        "SQLITE_PATH=",
                        "# x",
                        "(",
                    ),
                    *("STORAGE_SCHEMA=s", "OTHER=1"),
                ]
            )
        ),
    )
    @example(keywords={}, environment={}, file=None)
    @example(keywords={"engine": "sqlite", "sqlite_path": "x.db"}, environment={}, file=["OTHER=1"])
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_they_are_those_of_the_full_reading(
        self, keywords: dict[str, Any], environment: dict[str, str], file: list[str] | None
    ) -> None:
        Path(".env").unlink(missing_ok=True)
        if file is not None:
            Path(".env").write_text("\n".join(file))
        with pytest.MonkeyPatch.context() as patch:
            for variable, text in environment.items():
                patch.setenv(variable, text)
            plain = plain_settings(keywords)
            if plain is not None:
                full = load_settings(keywords)
                assert (full.engine, full.sqlite_path) == (plain.engine, plain.sqlite_path)
                others = {*StorageSettings.model_fields} - {"engine", "sqlite_path"}
                assert full.model_dump(include=others) == StorageSettings().model_dump(include=others)

    @pytest.mark.parametrize("text", PLAIN_TEXTS)
    @pytest.mark.parametrize("keyword", ["engine", "sqlite_path"])
    @pytest.mark.parametrize("is_variable", [False, True])
    def test_each_text_alone(
        self, text: str, keyword: str, is_variable: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keywords = {} if is_variable else {keyword: text}
        if is_variable:
            monkeypatch.setenv({"engine": "STORAGE_ENGINE"}.get(keyword, "SQLITE_PATH"), text)
        plain = plain_settings(keywords)
        if plain is not None:
            full = load_settings(keywords)
            assert (full.engine, full.sqlite_path) == (plain.engine, plain.sqlite_path)

    def test_its_defaults_are_those_of_the_full_reading(self) -> None:
        plain, full = plain_settings({}), load_settings()
        assert plain is not None
        for name in PlainSettings.__annotations__:
            assert getattr(plain, name) == getattr(full, name), name
        assert plain.retry_policy() == full.retry_policy()
        assert plain.retention_policy() == full.retention_policy()
        assert plain.lock_ttl() == full.lock_ttl()

    def test_it_knows_all_variables(self) -> None:
        assert {*plain_settings_module.VARIABLES} == VARIABLES

    @pytest.mark.parametrize("variable", sorted(VARIABLES - {"STORAGE_ENGINE", "SQLITE_PATH"}))
    def test_any_other_variable_is_left_to_the_full_reading(
        self, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, "1")
        assert plain_settings({}) is None

    def test_the_usual_ones_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "")
        Path(".env").write_text("STORAGE_ENGINE=memory\nOTHER=1\n")
        assert plain_settings({}) == PlainSettings("memory", Path("data/assistly.db"))
        monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
        assert plain_settings({"sqlite_path": "x.db"}) == PlainSettings("sqlite", Path("x.db"))


class TestWorkerSettings:
    def test_the_layers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
        assert load_worker_settings().webhook_secret is None
        Path(".env").write_text("WEBHOOK_SECRET=of the file\n")
        secret = load_worker_settings().webhook_secret
        assert secret is not None
        assert secret.get_secret_value() == "of the file"
        assert "of the file" not in repr(load_worker_settings())
        monkeypatch.setenv("WEBHOOK_SECRET", "of the environment")
        secret = load_worker_settings().webhook_secret
        assert secret is not None
        assert secret.get_secret_value() == "of the environment"
        monkeypatch.setenv("WEBHOOK_SECRET", "")
        assert load_worker_settings().webhook_secret is None

    def test_what_cannot_be_read(self) -> None:
        Path(".env").write_bytes(b"WEBHOOK_SECRET=\xff\n")
        with pytest.raises(ConfigurationError, match="not UTF-8"):
            load_worker_settings()

    def test_a_wrong_one_is_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEBHOOK_SECRET", "hunter2\udcff")
        with pytest.raises(ConfigurationError, match="WEBHOOK_SECRET must be") as caught:
            load_worker_settings()
        assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_text_is_named() -> None:
    Path(".env").write_bytes(b"STORAGE_SCHEMA=\xff\n")
    assert refusal() == "the file .env is not UTF-8"


@pytest.mark.parametrize(
    "line", ['{}="{}', "export {}='{}", '  {} = "{}" and more', "{}: {}", "{} {}", '\texport\t{}="{}\r']
)
class TestLinesThatCannotBeRead:
    """Without this they would count as if they were not there."""

    def test_a_setting_of_the_storage(self, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STORAGE_ENGINE", raising=False)
        Path(".env").write_text(f"OTHER=1\n{line.format('STORAGE_ENGINE', 'postgres')}\n")
        assert refusal().startswith("cannot read STORAGE_ENGINE from .env, line 2: ")
        assert load_settings({"engine": "memory"}).engine == "memory"
        monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
        assert load_settings().engine == "sqlite"

    def test_a_url(self, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DATABASE_URL", raising=False)
        Path(".env").write_text(line.format("DATABASE_URL", "postgresql://u:hunter2@h/d"))
        message = refusal()
        assert message.startswith("cannot read DATABASE_URL from .env, line 1: ")
        assert "hunter2" not in message

    def test_the_secret_of_webhooks(self, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
        Path(".env").write_text(line.format("WEBHOOK_SECRET", "hunter2"))
        with pytest.raises(ConfigurationError, match=r"cannot read WEBHOOK_SECRET from \.env") as caught:
            load_worker_settings()
        assert "hunter2" not in str(caught.value)

    def test_a_line_of_somebody_else(self, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STORAGE_ENGINE", raising=False)
        Path(".env").write_text(f"{line.format('MY_STORAGE_ENGINE', 'x')}\nSTORAGE_ENGINE=memory\n")
        assert load_settings().engine == "memory"


class ShelfSettings(StorageSettings):
    """The settings of a third party's engine."""

    shelf_path: Path = Field(Path("data/shelf"), description="the path of a folder")
    shelf_size: int = Field(default=10, ge=1, description="a number of books, 1 or more")
    shelf_key: SecretStr | None = Field(default=None, min_length=8, description="8 letters or more")
    shelf_label: str = Field(default="books", max_length=5)
    shelf_walls: list[int] | None = Field(default=None, description="a list of numbers in JSON")

    @field_validator("shelf_label")
    @classmethod
    def _is_lower(cls, value: str) -> str:
        if value != value.lower():
            raise ValueError("capitals")
        return value

    @model_validator(mode="after")
    def _fits(self) -> ShelfSettings:
        if self.shelf_size > 10 * len(self.shelf_label):
            raise ValueError("a small label for so many books")
        return self


class OwnedSettings(StorageSettings):
    owner: str = Field(description="the name of a person")


@pytest.fixture
def _shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins with settings: `shelf`, `owned`, and two that are broken."""
    found = EntryPoints(
        EntryPoint(name, f"{__name__}:{kind}", plugins.SETTINGS)
        for name, kind in {
            "shelf": "ShelfSettings",
            "owned": "OwnedSettings",
            "wrong": "VARIABLES",
            "gone": "NoSuchName",
            "memory": "OwnedSettings",
        }.items()
    )

    def entry_points(*, group: str) -> EntryPoints:
        return found if group == plugins.SETTINGS else EntryPoints()

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    for variable in ("SHELF_PATH", "SHELF_SIZE", "SHELF_KEY", "SHELF_LABEL", "SHELF_WALLS", "OWNER"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("_shelf")
class TestPlugIns:
    def test_settings_of_a_plug_in_have_the_same_layers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("STORAGE_ENGINE=shelf\nSHELF_PATH=file\nSHELF_SIZE=1\nSHELF_LABEL=file\n")
        monkeypatch.setenv("SHELF_SIZE", "2")
        monkeypatch.setenv("SHELF_LABEL", "")
        settings = load_settings({"pool_size": 3, "shelf_key": SecretStr("hunter2 hunter2")})
        assert isinstance(settings, ShelfSettings)
        assert (settings.engine, settings.pool_size) == ("shelf", 3)
        assert (settings.shelf_path, settings.shelf_size, settings.shelf_label) == (Path("file"), 2, "books")
        assert settings.shelf_key is not None
        assert settings.shelf_key.get_secret_value() == "hunter2 hunter2"

    def test_a_keyword_beats_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHELF_SIZE", "x")
        settings = load_settings({"engine": "shelf", "shelf_size": 4, "shelf_path": "as/text"})
        assert isinstance(settings, ShelfSettings)
        assert (settings.shelf_size, settings.shelf_path) == (4, Path("as/text"))

    def test_other_engines_do_not_have_them(self) -> None:
        message = refusal(engine="sqlite", shelf_size=4)
        assert message.startswith("no such setting: 'shelf_size' (there are engine, ")
        assert "shelf_path" in refusal(engine="shelf", color="blue")

    @pytest.mark.parametrize(
        ("keyword", "value", "takes"),
        [
            ("shelf_size", "4", "must be a number of books, 1 or more; got '4'"),
            ("shelf_size", 0, "must be a number of books, 1 or more; got 0"),
            ("shelf_path", 5, "must be the path of a folder; got 5"),
            (
                "shelf_key",
                "hunter2",
                "must be 8 letters or more; got a value that may contain a password",
            ),
            ("shelf_label", "too long", "is wrong (String should have at most 5 characters); got 'too long'"),
        ],
    )
    def test_a_wrong_keyword_is_named(self, keyword: str, value: Any, takes: str) -> None:
        message = refusal(engine="shelf", **{keyword: value})
        assert message == f"{keyword} ({keyword.upper()}) {takes}"

    def test_a_wrong_variable_is_named_with_all_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHELF_SIZE", "many")
        monkeypatch.setenv("SHELF_KEY", "hunter2")
        monkeypatch.setenv("STORAGE_POOL_SIZE", "x")
        message = refusal(engine="shelf")
        assert "SHELF_SIZE must be a number of books, 1 or more; got 'many'" in message
        assert "SHELF_KEY must be 8 letters or more; got a value that may contain" in message
        assert "STORAGE_POOL_SIZE must be" in message
        assert "hunter2" not in message

    def test_several_values_are_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHELF_WALLS", "[1, 2]")
        settings = load_settings({"engine": "shelf"})
        assert isinstance(settings, ShelfSettings)
        assert settings.shelf_walls == [1, 2]
        monkeypatch.setenv("SHELF_WALLS", "[1")
        assert refusal(engine="shelf") == "SHELF_WALLS must be a list of numbers in JSON; got '[1'"

    def test_validators_of_the_class_are_heard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHELF_SIZE", "51")
        assert "a small label for so many books" in refusal(engine="shelf")
        assert refusal(engine="shelf", shelf_label="CDs").startswith("shelf_label (SHELF_LABEL) is wrong (")

    def test_one_that_must_be_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://me:hunter2@host/d")
        assert refusal(engine="owned") == "OWNER is not set: it must be the name of a person"
        monkeypatch.setenv("OWNER", "kim")
        settings = load_settings({"engine": "owned"})
        assert isinstance(settings, OwnedSettings)
        assert settings.owner == "kim"

    def test_what_is_no_settings_class_is_refused(self) -> None:
        assert "'wrong' must be a subclass of StorageSettings" in refusal(engine="wrong")
        assert "the plug-in 'gone'" in refusal(engine="gone")

    def test_a_built_in_engine_gets_no_others(self) -> None:
        assert type(load_settings({"engine": "memory"})) is StorageSettings
