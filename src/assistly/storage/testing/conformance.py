"""Runs the whole suite on an engine, and reports the results.

    report = run("memory")
    print(render(report))
    sys.exit(0 if report.passed else 1)

The suite runs in a separate pytest process, on separate data: a temporary file for SQLite, new schemas for
Postgres (which stay; their names begin with `assistly_conformance`), and the `settings` for a plug-in. All
data that is stored there is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from ..engine.protocol import StorageBackend
from ..engine.values import JsonText
from ..errors import ConfigurationError, StorageError
from ..storage import check_engine
from .engine_spec import EngineSpec

LEFTOVERS = "assistly-conformance"
"""The kind of the snapshot that a run leaves: a digest of the names of what it could not delete."""

ENVIRONMENT = "ASSISTLY_CONFORMANCE"
"""The environment variable that passes the configuration of a run to its pytest process."""

_PLACES: dict[str, dict[str, str]] = {
    "memory": {},
    "sqlite": {"sqlite_path": "{place}/assistly.db"},
    "postgres": {"schema": "assistly_conformance_{name}"},
}
_TIMEOUT = 1800.0
_PYTEST = ("-q", "-p", "no:cacheprovider", "-p", "assistly.storage.testing.conformance_plugin", "--tb=short")


@dataclass(frozen=True)
class Traits:
    """The traits that an engine declares; see `StorageBackend`."""

    protocol_version: int
    in_process: bool
    durable: bool
    multi_process: bool
    binds: bool
    writers: int

    @classmethod
    def of(cls, backend: StorageBackend) -> Traits:
        """The traits of this engine."""
        return cls(
            backend.protocol_version,
            backend.in_process,
            backend.durable,
            backend.multi_process,
            backend.binds,
            backend.writers,
        )


@dataclass(frozen=True)
class FailedTest:
    """A test that failed, and the first line of its message."""

    test: str
    message: str


@dataclass(frozen=True)
class ContractResult:
    """The results of the tests of one contract class. `reasons` says why tests were skipped."""

    contract: str
    passed: int
    skipped: int
    failures: tuple[FailedTest, ...]
    reasons: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class ConformanceReport:
    """The results of a run. `trouble` says why it was not completed; None if it was."""

    engine: str
    traits: Traits
    contracts: tuple[ContractResult, ...]
    seconds: float
    trouble: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the run was completed, and every test passed or was skipped because of a trait."""
        return self.trouble is None and not self.failures and any(one.passed for one in self.contracts)

    @property
    def failures(self) -> list[FailedTest]:
        """The failed tests of all contracts."""
        return [failure for one in self.contracts for failure in one.failures]

    def count(self, outcome: str) -> int:
        """How many tests have the outcome `passed`, `failed` or `skipped`."""
        if outcome == "failed":
            return len(self.failures)
        return sum(getattr(one, outcome) for one in self.contracts)


@dataclass(frozen=True)
class EnginePlaces:
    """An engine, and the settings that give each test a set of data of its own.

    `settings` are keywords of `open_storage`. `{place}` in a value stands for a new folder, `{name}` for a
    new name of letters, digits and underscores. Without either there is only one set of data.
    """

    engine: str
    settings: Mapping[str, str]
    folder: str

    @property
    def are_many(self) -> bool:
        """Whether `new` names another set of data on each call."""
        texts = self.settings.values()
        return (
            self._is_factory or self.engine == "memory" or any(re.search("{place}|{name}", t) for t in texts)
        )

    @property
    def _is_factory(self) -> bool:
        return ":" in self.engine

    def new(self) -> EngineSpec:
        """Return the description of a new set of data, or of the only one."""
        name = uuid4().hex[:12]
        place = Path(self.folder) / name
        place.mkdir(parents=True)
        if self._is_factory:
            return EngineSpec(self.engine, (str(place),))
        settings = {
            key: value.replace("{place}", str(place)).replace("{name}", name)
            for key, value in self.settings.items()
        }
        return EngineSpec(f"{__name__}:open_by_name", (self.engine, settings))


def open_by_name(engine: str, settings: Mapping[str, str]) -> StorageBackend:
    """Open an engine with settings that are texts, as those of the environment are."""
    from ..factory import open_backend
    from ..settings import load_settings

    return open_backend(load_settings({**settings, "engine": engine}, are_texts=True))


def run(
    engine: str,
    *,
    settings: Mapping[str, str] | None = None,
    select: str | None = None,
    timeout: float = _TIMEOUT,
) -> ConformanceReport:
    """Run the suite on an engine, which takes minutes, and return the report.

    `engine` is a name as in STORAGE_ENGINE, or `module:callable`: that is called with the path of a folder,
    and returns an engine whose data is in that folder. `settings` are further settings, in the form of
    `EnginePlaces`; they are converted like variables of the environment. `select` is an expression for
    pytest's `-k`. After `timeout` seconds (default: 1800) the run is stopped. The default of
    HYPOTHESIS_PROFILE is `first`.

    At the end the data is deleted. What cannot be deleted, the metrics and snapshots of the suite, does not
    keep a later run from using the same place.

    Raises ConfigurationError if the engine cannot be opened, or holds other data already.
    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="assistly-conformance-") as folder:
        places = EnginePlaces(engine, {**_PLACES.get(engine, {}), **(settings or {})}, folder)
        traits = _inspect(places)
        outcomes = Path(folder) / "outcomes.jsonl"
        outcomes.touch()
        trouble = _run_pytest(places, outcomes, select, timeout)
        contracts = _collected(map(json.loads, outcomes.read_text(encoding="utf-8").splitlines()))
    return ConformanceReport(engine, traits, contracts, time.monotonic() - began, trouble)


def _inspect(places: EnginePlaces) -> Traits:
    """Return the traits of an engine.

    Raises ConfigurationError if it cannot be opened, or holds data, which the suite would delete.
    """
    backend = _opened(places)
    try:
        check_engine(backend)
        found = {
            "jobs": backend.jobs.list(status=None, platform=None, after=0, limit=1),
            "sessions": backend.sessions.list(after=None, limit=1),
            "approvals": backend.approvals.list(status=None, before=None, limit=1),
            "events": backend.events.list(event_type=None, before=None, limit=1),
            **({} if _holds_only_leftovers(backend) else _undeletable(backend)),
        }
        kinds = [kind for kind, stored in found.items() if stored]
        if kinds:
            raise ConfigurationError(
                f"the engine holds {', '.join(kinds)} already, and the suite deletes everything: "
                f"name an empty place, such as --setting {_place_setting(places)}={{place}}/data"
            )
        return Traits.of(backend)
    finally:
        backend.close()


def _opened(places: EnginePlaces) -> StorageBackend:
    spec = places.new()
    try:
        make = spec.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the engine {spec.factory} cannot be loaded: {error}") from error
    try:
        return make(*spec.args, **spec.options)
    except StorageError:
        raise
    except Exception as error:
        given = "the path of a folder" if spec.factory == places.engine else "its settings"
        raise ConfigurationError(
            f"the engine {places.engine} was called with {given}, and raised {type(error).__name__}: {error}"
        ) from error


def _place_setting(places: EnginePlaces) -> str:
    """The setting that names the place, as far as one can tell."""
    return next((name for name in places.settings if re.search("path|folder|dir", name)), "NAME")


def _undeletable(backend: StorageBackend) -> dict[str, list[str]]:
    """The names of what no call deletes."""
    kinds = (snapshot.kind for snapshot in backend.snapshots.list() if snapshot.kind != LEFTOVERS)
    return {"snapshots": sorted(kinds), "metrics": sorted(backend.metrics.read().counters)}


def _digest(backend: StorageBackend) -> str:
    return hashlib.sha256(json.dumps(_undeletable(backend)).encode()).hexdigest()


def mark_leftovers(backend: StorageBackend) -> None:
    """Note in the emptied engine that a run of the suite left what is still there."""
    noted = JsonText(json.dumps(_digest(backend)))
    backend.snapshots.put(LEFTOVERS, noted, now=datetime.now(UTC))


def _holds_only_leftovers(backend: StorageBackend) -> bool:
    mark = backend.snapshots.get(LEFTOVERS)
    return mark is not None and mark.payload == _digest(backend)


def _run_pytest(places: EnginePlaces, outcomes: Path, select: str | None, timeout: float) -> str | None:
    """Run pytest. Return why it was not completed, or None if it was."""
    folder = Path(places.folder)
    ini = folder / "pytest.ini"
    ini.write_text("[pytest]\n", encoding="utf-8")
    configuration = {"engine": places.engine, "settings": dict(places.settings), "folder": places.folder}
    environment = {
        "HYPOTHESIS_PROFILE": "first",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path])),
        ENVIRONMENT: json.dumps({**configuration, "outcomes": str(outcomes)}),
    }
    suite = Path(__file__).with_name("conformance_suite.py")
    command = [sys.executable, "-m", "pytest", *_PYTEST, "-c", str(ini), "--rootdir", str(folder), str(suite)]
    command += ["-k", select] if select else []
    try:
        ended = subprocess.run(  # noqa: S603 - this interpreter, with arguments of our own
            command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the run was stopped after {timeout:.0f} seconds"
    if ended.returncode in (0, 1):
        return None
    last = (ended.stdout + ended.stderr).strip().splitlines()[-15:]
    return f"pytest ended with {ended.returncode}:\n" + "\n".join(last)


def _collected(outcomes: Iterable[Mapping[str, Any]]) -> tuple[ContractResult, ...]:
    by_contract: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        by_contract.setdefault(outcome["contract"], []).append(outcome)
    return tuple(_result(contract, found) for contract, found in by_contract.items())


def _result(contract: str, outcomes: Sequence[Mapping[str, Any]]) -> ContractResult:
    kinds = [outcome["outcome"] for outcome in outcomes]
    return ContractResult(
        contract,
        kinds.count("passed"),
        kinds.count("skipped"),
        tuple(FailedTest(one["test"], one["message"]) for one in outcomes if one["outcome"] == "failed"),
        tuple(dict.fromkeys(one["message"] for one in outcomes if one["outcome"] == "skipped")),
        sum(one["seconds"] for one in outcomes),
    )


def render(report: ConformanceReport) -> str:
    """Return the report as text."""
    counts = ", ".join(f"{report.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
    verdict = "conforms" if report.passed else "does not conform"
    lines = [
        f"{report.engine} {verdict}: {counts}, in {report.seconds:.0f} s",
        f"protocol {report.traits.protocol_version}, " + ", ".join(_declared(report.traits)),
        "",
    ]
    width = max((len(one.contract) for one in report.contracts), default=0)
    for one in report.contracts:
        told = f"{one.passed:4} passed"
        told += f", {len(one.failures)} failed" if one.failures else ""
        told += f", {one.skipped} skipped" if one.skipped else ""
        lines.append(f"  {one.contract:{width}} {told}  ({one.seconds:.1f} s)")
    reasons = dict.fromkeys(reason for one in report.contracts for reason in one.reasons)
    lines += ["", *(f"skipped: {reason}" for reason in reasons)] if reasons else []
    if report.failures:
        lines += ["", *(f"FAILED {failure.test}: {failure.message}" for failure in report.failures)]
    if report.trouble:
        lines += ["", report.trouble]
    return "\n".join(lines)


def _declared(traits: Traits) -> list[str]:
    named = ("in_process", "durable", "multi_process", "binds")
    flags = [f"{name} {'yes' if getattr(traits, name) else 'no'}" for name in named]
    return [*flags, f"writers {traits.writers}"]


def markdown(reports: Sequence[ConformanceReport]) -> str:
    """Return the reports as a page of Markdown: a table of engines and contracts."""
    engines = [report.engine for report in reports]
    lines = [
        "# Conformance",
        "",
        "What each engine declares, and how many tests of each contract it passes. A dash stands for a",
        "contract that the engine's traits leave out. `assistly conformance ENGINE` reports on any engine;",
        "`assistly conformance memory sqlite postgres --markdown` made this page.",
        "",
        _row(["", *engines]),
        _row(["---", *["---"] * len(engines)]),
        _row(["protocol", *(str(report.traits.protocol_version) for report in reports)]),
    ]
    for trait in ("in_process", "durable", "multi_process", "binds"):
        told = ["yes" if getattr(report.traits, trait) else "no" for report in reports]
        lines.append(_row([f"`{trait}`", *told]))
    lines.append(_row(["`writers`", *(str(report.traits.writers) for report in reports)]))
    contracts = dict.fromkeys(one.contract for report in reports for one in report.contracts)
    rows = [_row([contract, *(_cell(report, contract) for report in reports)]) for contract in contracts]
    return "\n".join([*lines, *rows, ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(report: ConformanceReport, contract: str) -> str:
    for one in report.contracts:
        if one.contract == contract:
            passed = str(one.passed) if one.passed else "-"
            return f"{passed}, {len(one.failures)} failed" if one.failures else passed
    return "not run"
