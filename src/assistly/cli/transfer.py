"""`assistly export`, `assistly import` and `assistly copy`."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from .opening import is_there, require_database, storage_place
from .options import By, Create, Json, Note
from .output import Output, is_terminal, jsonable, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage import Storage
    from assistly.storage.engine.moving import MovingBackend
    from assistly.storage.settings import StorageSettings
    from assistly.transfer.copying import CopyReport
    from assistly.transfer.export import Digests
    from assistly.transfer.pages import Closing

_STREAM = "-"

Schema = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The Postgres schema. Default: after a # in the URL, or public."),
]


def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The file to write, compressed with gzip, or - for stdout.")
    ],
    by: By = None,
    note: Note = None,
    json: Json = False,
) -> None:
    """Write a consistent snapshot of the whole storage to a file.

    Others can write to the storage meanwhile. The file gets mode 0600, and replaces an existing file once it
    is complete. `assistly import` loads it into any engine. Then the storage gets an event operator.export.
    """
    from assistly.storage.settings import load_settings
    from assistly.transfer.export import export_rows, new_file

    _require_path(file)
    out = Output(json=json)
    if file == _STREAM:
        if json:
            raise typer.BadParameter("- writes the export to stdout: omit --json")
        if sys.stdout is None:
            raise typer.BadParameter("stdout is closed: give a file")
        if is_terminal(sys.stdout):
            raise typer.BadParameter("the export is compressed, not text for a terminal: redirect stdout")
    settings = load_settings()
    with _opened(out, settings, create=False) as backend:
        level = _schema_level(settings.engine)
        target = _stdout() if file == _STREAM else new_file(Path(file))
        with target as stream, _Bar(out) as bar:
            digests = export_rows(
                backend, stream, engine=settings.engine, schema_level=level, progress=bar.show
            )
        _record_export(out, backend, by=by, note=note, file=file, rows=_total(digests))
    _report(out, digests, "exported", file, err=file == _STREAM)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of `assistly export`, or - for stdin.")],
    create: Create = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
) -> None:
    """Load a file of `assistly export` into an empty storage.

    The file is checked first: a file that is altered, incomplete or from a later version is refused.
    Everything is written in one transaction, with an event operator.import.
    """
    from assistly.storage.settings import load_settings
    from assistly.transfer.export import import_rows, verify

    _require_path(file)
    out = Output(json=json)
    with _source(file) as (stream, name):
        with _Bar(out) as bar:
            digests = verify(stream, name, progress=bar.show)
        record = _event("import", by=by, note=note, file=name, rows=_total(digests))
        with (
            _opened(out, load_settings(), create=create, created_by="`--create`") as backend,
            _Bar(out) as bar,
        ):
            import_rows(backend, stream, name, digests=digests, closing=record, progress=bar.show)
    _report(out, digests, "imported", file, err=False)


def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A URL, or the path of an SQLite file.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The same; created if it is missing.")],
    source_schema: Schema = None,
    target_schema: Schema = None,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Do only the long part, while others write to SOURCE. The same command without --prepare "
            "finishes the copy.",
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Do not block writers of SOURCE during the last step: what they write may be missing.",
        ),
    ] = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
) -> None:
    """Copy a whole storage into an empty one, on any engine, and compare the two.

    SOURCE and TARGET are postgresql://user@host/database (#schema may follow), sqlite:///path, the path of an
    SQLite file, or the name of a plug-in, which takes its settings from the environment. The same command
    resumes an interrupted copy. Nobody may use TARGET until the copy is done. Others may write to SOURCE
    until the last step, which blocks them. Exit code 0: both sides hold the same data, and TARGET also has an
    event operator.copy.
    """
    from assistly.transfer import copying
    from assistly.transfer.places import settings_of

    if prepare and live:
        raise typer.BadParameter("--live applies to the last step, which --prepare skips")
    out = Output(json=json)
    with _naming("SOURCE"):
        from_settings = settings_of(source, schema=source_schema)
        identity = _identity(from_settings)
    with _naming("TARGET"):
        to_settings = settings_of(target, schema=target_schema, create=True)
        is_same = identity == _identity(to_settings) or _is_same_file(from_settings, to_settings)
    if is_same:
        raise typer.BadParameter("SOURCE and TARGET are the same storage")
    with (
        _opened(out, from_settings, create=False, label="from", created_by=None) as old,
        _opened(out, to_settings, create=True, label="to") as new,
        _Bar(out) as bar,
    ):
        if prepare:
            copying.prepare(old, new, identity=identity, progress=bar.show)
            report = None
        else:
            record = _event("copy", by=by, note=note, source=identity)
            report = copying.copy(
                old, new, identity=identity, hold_writers=not live, closing=record, progress=bar.show
            )
    if report is not None:
        _report_copy(out, report)
    elif json:
        out.document({"finished": False})
    else:
        out.say("prepared: the same command without --prepare finishes the copy")


def _report_copy(out: Output, report: CopyReport) -> None:
    if not report.held:
        out.remark(
            "SOURCE was not blocked during the last step: what others wrote then may be missing in TARGET"
        )
    if out.json:
        out.document({"finished": True, **jsonable(report)})
        return
    rows = [
        (kind, str(one.rows), one.source_sha256[:16], one.target_sha256[:16])
        for kind, one in report.kinds.items()
    ]
    out.table(("kind", "rows", "source", "target"), rows)
    again = f"; {plural(report.repaired, 'row')} changed meanwhile" if report.repaired else ""
    went_on = "; resumed an earlier copy" if report.resumed else ""
    out.say(f"copied and compared: both sides hold the same data{again}{went_on}")


def _require_path(file: str) -> None:
    """Refuse a URL: it may hold a password, and would become a file name and part of an event."""
    from assistly.storage.addresses import path_problem

    if path_problem(file) is not None:
        raise typer.BadParameter("FILE is a URL: give the path of a file, such as all.gz")


def _event(action: str, *, by: str | None, note: str | None, **details: str | int) -> Closing:
    """What records the event of an operation. Arguments that are not UTF-8 must not make it fail."""
    from assistly.operations import audit

    texts: dict[str, Any] = {"by": by, "note": note, **details}
    for name, value in texts.items():
        if isinstance(value, str):
            texts[name] = value.encode(errors="replace").decode()
    person = audit.Person(texts.pop("by"), texts.pop("note"))

    def write(storage: Storage) -> None:
        audit.record(storage, action, person, **texts)

    return write


def _record_export(
    out: Output, backend: MovingBackend, *, by: str | None, note: str | None, file: str, rows: int
) -> None:
    """Record the event of an export. A read-only role can export too, without the event."""
    from assistly.storage import Storage
    from assistly.storage.errors import StorageError

    try:
        _event("export", by=by, note=note, file=file, rows=rows)(Storage(backend, auto_prune=False))
    except StorageError as error:
        out.remark(f"the export is complete, but its event was not recorded: {error}")


@contextmanager
def _opened(
    out: Output,
    settings: StorageSettings,
    *,
    create: bool,
    label: str = "storage",
    created_by: str | None = "`assistly migrate`",
) -> Iterator[MovingBackend]:
    from assistly.storage.engine.moving import moving
    from assistly.storage.factory import open_backend, open_existing

    place = storage_place(settings)
    if create:
        out.remark(f"{label}: {place}")
        _require_new_or_current(settings)
        backend = open_backend(settings.model_copy(update={"auto_migrate": True}))
    else:
        require_database(settings, place, created_by=created_by)
        out.remark(f"{label}: {place}")
        backend = open_existing(settings)
    with closing(backend):
        backend.ping()
        yield moving(backend)


def _require_new_or_current(settings: StorageSettings) -> None:
    """Raise MigrationError if only some migrations are applied: other programs may not know the rest."""
    from assistly.storage.engines.sql.migrations import PendingMigrations
    from assistly.storage.factory import open_backend

    if not _migrations(settings.engine):
        return
    with closing(open_backend(settings.model_copy(update={"auto_migrate": False}))) as backend:
        if not is_there(backend):
            return
        try:
            backend.ping()
        except PendingMigrations as error:
            if not error.is_new:
                raise


def _identity(settings: StorageSettings) -> str:
    """The location, by which an unfinished copy is found again; for a file, with symbolic links resolved."""
    path = _file_of(settings)
    return storage_place(settings) if path is None else f"sqlite {path.resolve()}"


def _file_of(settings: StorageSettings) -> Path | None:
    """The path of the SQLite file; None for other engines."""
    from assistly.storage.engines.sqlite import SqliteBackend
    from assistly.storage.factory import open_backend

    if settings.engine != "sqlite":
        return None
    with closing(open_backend(settings)) as backend:
        return backend.path if isinstance(backend, SqliteBackend) else None


@contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Name the argument in the error."""
    from assistly.storage.errors import ConfigurationError

    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{argument}: {error}") from None


def _is_same_file(one: StorageSettings, other: StorageSettings) -> bool:
    """Whether both name the same SQLite file."""
    from contextlib import suppress

    paths = _file_of(one), _file_of(other)
    if paths[0] is not None and paths[1] is not None:
        with suppress(OSError):
            return paths[0].samefile(paths[1])
    return False


def _total(digests: Digests) -> int:
    return sum(one.rows for one in digests.values())


def _schema_level(engine: str) -> str | None:
    """The last migration of the engine; None for an engine without migrations."""
    found = _migrations(engine)
    return found[-1] if found else None


def _migrations(engine: str) -> list[str]:
    """The names of the migrations of the engine."""
    from assistly.storage.engines.sql.migrations import discover

    return [migration.name for migration in discover(engine)] if engine in ("sqlite", "postgres") else []


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    from assistly.storage.errors import ConfigurationError

    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigurationError(f"cannot write to stdout: {error.strerror}") from error


@contextmanager
def _source(file: str) -> Iterator[tuple[IO[bytes], str]]:
    """The file, which is read twice: stdin and pipes are saved to a temporary file first."""
    from assistly.storage.errors import ConfigurationError

    if file == _STREAM:
        with _kept(sys.stdin.buffer, "stdin") as kept:
            yield kept, "stdin"
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    with opened:
        if opened.seekable():
            yield opened, file
        else:
            with _kept(opened, file) as kept:
                yield kept, file


@contextmanager
def _kept(stream: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """A temporary file with the content of the stream."""
    import shutil
    import tempfile

    from assistly.storage.errors import ConfigurationError

    with tempfile.TemporaryFile() as file:
        try:
            shutil.copyfileobj(stream, file)
            file.seek(0)
        except OSError as error:
            raise ConfigurationError(f"cannot save {name} to a temporary file: {error.strerror}") from error
        yield file


def _report(out: Output, digests: Digests, verb: str, file: str, *, err: bool) -> None:
    if out.json:
        out.document({"file": file, "kinds": digests})
        return
    total = sum(one.rows for one in digests.values())
    jobs = plural(digests["jobs"].rows, "job")
    text = f"{verb} {jobs}, {plural(total, 'row')} in all"
    if err:
        out.remark(text)
    else:
        out.say(text)


class _Bar:
    """A progress bar on a terminal: the kind of rows, how many are done, the speed, and the time left.

    Elsewhere it shows nothing.
    """

    def __init__(self, out: Output) -> None:
        self._is_shown = is_terminal(sys.stderr) and not out.json
        self._progress: Any = None
        self._shown: tuple[str, str] | None = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        if self._is_shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TextColumn("{task.completed:,.0f} rows", markup=False),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                transient=True,
                # Starts no thread, and leaves sys.stdout and sys.stderr alone.
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, step: str, kind: str, rows: int, expected: int | None) -> None:
        """Add `rows` of a kind to those done in a step, out of about `expected`."""
        if self._progress is None:
            return
        if self._shown != (step, kind):
            if self._task is not None:
                self._progress.refresh()
                self._progress.remove_task(self._task)
            self._shown = step, kind
            self._task = self._progress.add_task(f"{step} {kind}", total=expected, rate="")
        self._progress.advance(self._task, rows)
        speed = self._progress.tasks[0].speed
        if speed is not None:
            self._progress.update(self._task, rate=f"{speed:,.0f} rows/s")
        self._progress.refresh()
