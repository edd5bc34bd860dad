"""The process of `test_io_errors`: operations on SQLite, on a disk whose calls fail with EIO."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

from assistly.storage import SqliteBackend, StorageCorrupt, StorageUnavailable
from backends.fault_operations import WRITES, content, open_on, states_of

_disk = ctypes.CDLL(None)


def failures(template: Path, folder: Path, name: str, *, lasting: bool) -> int:
    """Run an operation with an error at one call of the disk after the other; how many times it failed."""
    operation, states = WRITES[name], states_of(name)
    failed = 0
    for at in count(1):
        path = folder / f"{name} {lasting} {at}.db"
        shutil.copyfile(template, path)
        with closing(SqliteBackend(path)) as backend:
            storage = open_on(backend)
            prepared = operation.prepare(storage)
            _disk.break_disk(at, int(lasting))
            try:
                operation.call(storage, prepared)
            except (StorageUnavailable, StorageCorrupt):  # SQLite takes a page that cannot be read for damage
                is_stored = False
            else:
                is_stored = True
            reached = _disk.disk_calls() >= at
            _disk.break_disk(0, 0)
            failed += not is_stored
            left = content(storage)
            _expect(left in ([states.whole] if is_stored else states.partial), f"{name} {at}: {left}")
            if not is_stored and operation.repeats:
                operation.call(storage, prepared)
                left = content(storage)
                _expect(left == states.whole, f"{name} {at}, again: {left}")
        with closing(SqliteBackend(path)) as backend:
            _expect(content(open_on(backend)) == left, f"{name} {at}, opened again")
        path.unlink()
        if not reached:
            return failed
    raise AssertionError


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


if __name__ == "__main__":
    template, folder, *names = sys.argv[1:]
    found = {
        name: sum(failures(Path(template), Path(folder), name, lasting=lasting) for lasting in (False, True))
        for name in names
    }
    sys.stdout.write(json.dumps(found))
