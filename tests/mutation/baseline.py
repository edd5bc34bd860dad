"""One run of the tests without a mutant: how long each takes, and which functions it calls."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .copies import Copy, Ended, Silent

PATIENCE = 180.0
"""Seconds that a test may take in this run."""


@dataclass
class Known:
    """`functions` are places like ``path:qualified name``."""

    seconds: float
    failed: bool
    skipped: bool
    spawns: bool
    functions: list[str] = field(default_factory=list)


Baseline = dict[str, Known]


def digest(root: Path, files: Sequence[str]) -> str:
    """Of everything that the run depends on."""
    found = hashlib.sha256(sys.version.encode())
    for folder in ("src", "tests", "migrations"):
        for path in sorted((root / folder).rglob("*.*")):
            if path.suffix in (".py", ".sql") and "/mutation/" not in path.as_posix():
                found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    found.update(repr(sorted(files)).encode())
    return found.hexdigest()[:20]


def place_for(root: Path, files: Sequence[str]) -> Path:
    return Path(tempfile.gettempdir()) / f"assistly-mutation-{digest(root, files)}.json"


def load(place: Path) -> Baseline | None:
    if not place.is_file():
        return None
    stored = json.loads(place.read_text(encoding="utf-8"))
    names = stored["functions"]
    return {
        test: Known(**(known | {"functions": [names[number] for number in known["functions"]]}))
        for test, known in stored["tests"].items()
    }


def save(place: Path, baseline: Baseline) -> None:
    """Each name of a function once."""
    numbers: dict[str, int] = {}
    tests = {
        test: asdict(known)
        | {"functions": [numbers.setdefault(name, len(numbers)) for name in known.functions]}
        for test, known in baseline.items()
    }
    unfinished = place.with_suffix(".part")
    unfinished.write_text(json.dumps({"functions": [*numbers], "tests": tests}), encoding="utf-8")
    unfinished.replace(place)


def measure(copy: Copy, tests: Sequence[str]) -> Iterator[tuple[str, Known]]:
    """A test that hangs or ends its process counts as failed; the others go on without it."""
    left = dict.fromkeys(tests)
    files = [*dict.fromkeys(test.partition("::")[0] for test in tests)]
    while left:
        running = next(iter(left))
        runner = copy.start(files, traced=True)
        try:
            runner.ready(600)
            runner.run(tests=[*left], patches={}, first=False)
            for answer in runner.answers(dict.fromkeys(left, PATIENCE)):
                if "begins" in answer:
                    running = answer["begins"]
                elif "test" in answer:
                    del left[running]
                    yield (
                        running,
                        Known(
                            answer["seconds"],
                            answer["failed"],
                            answer["skipped"],
                            answer["spawns"],
                            answer["functions"],
                        ),
                    )
        except (Silent, Ended):
            pass
        finally:
            runner.close()
        if running in left:
            del left[running]
            yield running, Known(PATIENCE, failed=True, skipped=False, spawns=True)
