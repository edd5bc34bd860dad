"""Writes a storage to a file, and reads it back, in the format that docs/moving.md describes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, cast

from assistly.storage import Storage
from assistly.storage.addresses import place_of
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.transfer import MARKS, ROW_KINDS, Row
from assistly.storage.errors import ConfigurationError, InvalidValue, StorageCorrupt

from .file_rows import row_problem
from .pages import (
    Closing,
    Progress,
    marks_hold,
    no_progress,
    nothing_more,
    pages,
    require_empty,
    require_whole,
)

FORMAT = "assistly-export"
VERSION = 1

_LEVEL = 5
_GZIP = 31  # for zlib: a stream in the format of gzip, with the largest window
_PAGE_ROWS = 2000
_PAGE_BYTES = 4 * 2**20
_LONGEST_LINE = 64 * 2**20
_PYTHON: dict[str, type] = {"int": int, "bool": bool, "time": int, "duration": int, "text": str, "json": str}


@dataclass(frozen=True, slots=True)
class KindDigest:
    """How many rows of a kind there are, and the SHA-256 of their lines."""

    rows: int
    sha256: str


Digests = dict[str, KindDigest]


class _Digest:
    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add(self, lines: list[bytes]) -> None:
        self.rows += len(lines)
        self._hash.update(b"".join(lines))

    def end(self) -> KindDigest:
        return KindDigest(self.rows, self._hash.hexdigest())


def export_rows(
    backend: MovingBackend,
    out: IO[bytes],
    *,
    engine: str,
    schema_level: str | None,
    progress: Progress = no_progress,
) -> Digests:
    """Write a compressed snapshot of all rows to `out`. Returns the content of the trailer.

    Raises Conflict if the storage is the target of an unfinished copy.
    """
    digests: Digests = {}
    # Not a GzipFile: if `out` fails, it tries once more when it is collected, and Python prints that error.
    compress = zlib.compressobj(_LEVEL, wbits=_GZIP)
    with backend.snapshot() as view:
        require_whole(view, backend)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "engine": engine,
            "schema_level": schema_level,
            "made_at": datetime.now(UTC).isoformat(),
            "kinds": {name: [column.name for column in kind.columns] for name, kind in ROW_KINDS.items()},
        }
        first = _line(header)
        out.write(compress.compress(first))
        for kind in ROW_KINDS:
            out.write(compress.compress(_line({"rows": kind})))
            digest = _Digest()
            for page in pages(view, kind):
                lines = [*page.lines]
                digest.add(lines)
                out.write(compress.compress(b"".join(lines)))
                progress("export", kind, len(lines), page.expected)
            digests[kind] = digest.end()
        trailer: dict[str, Any] = {"header": hashlib.sha256(first).hexdigest()}
        trailer |= {kind: {"rows": one.rows, "sha256": one.sha256} for kind, one in digests.items()}
        out.write(compress.compress(_line({"end": trailer})) + compress.flush())
    return digests


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file with mode 0600 that replaces `path` when the block ends.

    A pipe or a device is written to directly, and a symbolic link is followed. Raises ConfigurationError if
    the file cannot be created.
    """
    real = Path(os.path.realpath(path))
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        descriptor, name = tempfile.mkstemp(prefix=f".{real.name[:50]}.", suffix=".part", dir=real.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(real)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        _sync_folder(real.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power failure, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def verify(source: IO[bytes], name: str, *, progress: Progress = no_progress) -> Digests:
    """Read and check the whole file, rewind it, and return the content of its trailer.

    Raises InvalidValue if it is not an export, or has a later version, and StorageCorrupt if it is altered or
    truncated.
    """
    reader = _Reader(source, name)
    for kind, rows in reader.blocks():
        progress("check", kind, len(rows), None)
    source.seek(0)
    return reader.digests


def import_rows(
    backend: MovingBackend,
    source: IO[bytes],
    name: str,
    *,
    digests: Digests | None = None,
    closing: Closing = nothing_more,
    progress: Progress = no_progress,
) -> Digests:
    """Write all rows of a file into an empty storage, in one transaction, and return their numbers.

    The file is verified first, so that nothing of a damaged file is written: `digests` is what `verify` has
    just returned for it; with None, this calls `verify`. `closing` may write more in the transaction. Raises
    what `verify` raises, and Conflict if the storage is not empty.
    """
    expected = verify(source, name) if digests is None else digests
    reader = _Reader(source, name)
    with backend.snapshot(hold_writers=True) as tx:
        require_empty(tx, backend)
        last: dict[str, Row] = {}
        for kind, rows in reader.blocks():
            if kind == MARKS:
                tx.write_rows(kind, rows, after=None, through=None)
                if not marks_hold(rows, tx.read_rows(kind, after=None, limit=_PAGE_ROWS)):
                    raise StorageCorrupt(
                        f"{place_of(backend)} did not accept the numbers: nothing was written"
                    )
            else:
                through = ROW_KINDS[kind].key(rows[-1])
                try:
                    tx.write_rows(kind, rows, after=last.get(kind), through=through)
                except (OverflowError, struct.error, InvalidValue) as error:
                    raise reader.damaged(f"a number in its {kind} is too large") from error
                last[kind] = through
            progress("import", kind, len(rows), expected[kind].rows)
        if reader.digests != expected:
            raise StorageCorrupt(f"{name} changed while it was read. Nothing was written")
        closing(Storage(tx, auto_prune=False))
    return reader.digests


class _Reader:
    """Reads a file once. `digests` are set after `blocks`."""

    digests: Digests

    def __init__(self, source: IO[bytes], name: str) -> None:
        self._name = name
        is_compressed = source.read(2) == b"\x1f\x8b"
        source.seek(0)
        file = gzip.GzipFile(fileobj=source, mode="rb") if is_compressed else source
        self._file = cast("BufferedIOBase", file)

    def blocks(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield the rows of each kind in blocks. Checks counts and digests at the end."""
        try:
            self._check_header()
            yield from self._blocks()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self.damaged(f"it is truncated or altered ({error})") from error
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._name}: {error.strerror or error}") from error

    def _blocks(self) -> Iterator[tuple[str, list[Row]]]:
        found: Digests = {}
        kind, rows, lines, size = "", [], cast("list[bytes]", []), 0
        digest = _Digest()
        signatures: set[tuple[type, ...]] = set()
        last: Row | None = None
        while line := self._file.readline(_LONGEST_LINE):
            value = self._decoded(line)
            if type(value) is list:
                row = tuple(value)
                if tuple(map(type, row)) not in signatures:
                    self._check(kind, row)
                    signatures.add(tuple(map(type, row)))
                problem = row_problem(kind, row, line)
                if problem is not None:
                    raise self.damaged(problem)
                key = row[: ROW_KINDS[kind].key_columns]
                if last is not None and key <= last:
                    raise self.damaged(f"its {kind} are not in order")
                last = key
                rows.append(row)
                lines.append(line)
                size += len(line)
                if len(rows) < _PAGE_ROWS and size < _PAGE_BYTES:
                    continue
            if rows:
                digest.add(lines)
                yield kind, rows
                rows, lines, size = [], [], 0
            if type(value) is dict:
                if kind:
                    found[kind] = digest.end()
                if "end" in value:
                    self._end(value["end"], found)
                    return
                kind = self._next_kind(value, found)
                digest, signatures, last = _Digest(), set(), None
        raise self.damaged("it is truncated: its last line is missing")

    def _check_header(self) -> None:
        line = self._file.readline(_LONGEST_LINE)
        self._header_digest = hashlib.sha256(line).hexdigest()
        try:
            header = json.loads(line)
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise InvalidValue(f"{self._name} is not a file of `assistly export`: nothing was written")
        version = header.get("version")
        if type(version) is not int or version < 1:
            raise self.damaged(f"its version is {str(version)[:80]}")
        if version > VERSION:
            raise InvalidValue(
                f"{self._name} has format version {version}, and this version of assistly reads up to "
                f"{VERSION}: upgrade assistly. Nothing was written"
            )
        columns = {name: [column.name for column in kind.columns] for name, kind in ROW_KINDS.items()}
        if header.get("kinds") != columns:
            raise InvalidValue(
                f"{self._name} has other kinds of rows or columns than this version of assistly: use the "
                "version that wrote it. Nothing was written"
            )

    def _next_kind(self, value: dict[str, Any], found: Digests) -> str:
        names = [*ROW_KINDS]
        kind = value.get("rows")
        if len(found) >= len(names) or kind != names[len(found)]:
            raise self.damaged(f"an unexpected line {str(value)[:80]}")
        return cast("str", kind)

    def _end(self, trailer: Any, found: Digests) -> None:
        said = {kind: {"rows": one.rows, "sha256": one.sha256} for kind, one in found.items()}
        if [*found] != [*ROW_KINDS] or not isinstance(trailer, dict):
            raise self.damaged("it lacks kinds of rows")
        # Files of earlier versions lack this digest.
        if trailer.get("header", self._header_digest) != self._header_digest:
            raise self.damaged("its first line differs from the export (SHA-256)")
        for kind, one in said.items():
            if trailer.get(kind) != one:
                raise self.damaged(f"its {kind} differ from the export (count or SHA-256)")
        if self._file.read(1):
            raise self.damaged("it has data after its end")
        self.digests = found

    def _decoded(self, line: bytes) -> Any:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"a line is not JSON ({error})") from error
        if type(value) is not list and type(value) is not dict:
            raise self.damaged("a line is not a row")
        return value

    def _check(self, kind: str, row: Row) -> None:
        columns = ROW_KINDS[kind].columns if kind else ()
        fits = (
            bool(row)
            and len(row) == len(columns)
            and all(
                (value is None and column.is_optional) or type(value) is _PYTHON[column.type]
                for value, column in zip(row, columns, strict=True)
            )
        )
        if not fits:
            raise self.damaged(f"a row of {kind or 'no kind'} has other columns")

    def damaged(self, problem: str) -> StorageCorrupt:
        """The error for a damaged file."""
        return StorageCorrupt(f"{self._name} is damaged: {problem}. Nothing was written")


def _line(value: object) -> bytes:
    return f"{json.dumps(value, ensure_ascii=False)}\n".encode()
