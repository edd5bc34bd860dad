"""The report on an engine, and the page that is made of such reports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from assistly.storage import ConfigurationError, MigrationError, Storage, StorageBackend, StorageSettings
from assistly.storage.plugins import BUILT_IN
from assistly.storage.testing import StorageContract
from assistly.storage.testing.conformance import (
    ConformanceReport,
    ContractResult,
    FailedTest,
    Traits,
    markdown,
    open_by_name,
    render,
    run,
)
from assistly.storage.testing.conformance_suite import contracts, title
from contract.mutants.catalog import SettlesWithoutFence
from contract.mutants.stores import NaiveEngine

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
MEMORY = Traits(2, in_process=True, durable=False, multi_process=False, binds=False, writers=0)


def open_mutant(place: str) -> StorageBackend:
    assert Path(place).is_dir()
    return SettlesWithoutFence()


def open_naive(place: str) -> StorageBackend:
    return NaiveEngine()


def open_used(place: str) -> StorageBackend:
    engine = NaiveEngine()
    engine.nonces.register("nonce", 1)
    engine.metrics.increment("count", 1)
    return engine


def test_an_engine_by_its_name() -> None:
    report = run("memory", select="TestNonces or TestLifecycle or TestProcess")
    assert report.passed is True
    assert (report.engine, report.traits, report.trouble) == ("memory", MEMORY, None)
    nonces, lifecycle, process = report.contracts
    assert [one.contract for one in report.contracts] == ["Nonces", "Lifecycle", "Process"]
    assert nonces.passed > 10
    assert lifecycle.passed > 5
    assert (process.passed, len(process.reasons)) == (0, 2)
    assert process.skipped == report.count("skipped") > 5
    assert report.count("passed") == nonces.passed + lifecycle.passed
    assert 0 < nonces.seconds < report.seconds


def test_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "mine.db"))
    report = run("sqlite", select="TestSnapshots or (TestProcess and opened_again)")
    assert report.passed is True
    assert report.traits.durable is True
    assert [*tmp_path.iterdir()] == []


def test_an_engine_with_a_bug() -> None:
    report = run(f"{__name__}:open_mutant", select="(TestQueueFence and never_claimed) or TestSnapshots")
    assert report.passed is False
    fence, snapshots = report.contracts
    assert (snapshots.failures, snapshots.passed > 5) == ((), True)
    assert fence.failures
    assert all(failure.test.startswith("test_") and failure.message for failure in fence.failures)
    assert "does not conform" in render(report)
    assert f"FAILED {fence.failures[0].test}: {fence.failures[0].message}" in render(report)


def test_an_engine_that_holds_data_is_left_alone() -> None:
    with pytest.raises(ConfigurationError, match="metrics already"):
        run(f"{__name__}:open_used")


def test_a_second_run_in_the_same_place(tmp_path: Path) -> None:
    """The suite deletes its records, and knows the metrics and snapshots that it cannot delete."""
    settings = {"sqlite_path": str(tmp_path / "one.db")}
    for _ in range(2):
        report = run("sqlite", settings=settings, select="TestSnapshots or TestMetrics or TestSessions")
        assert report.passed, render(report)
    backend = open_by_name("sqlite", settings)
    assert backend.sessions.list(after=None, limit=1) == []
    assert backend.metrics.read().counters
    backend.metrics.increment("somebody else's", 1)
    backend.close()
    with pytest.raises(ConfigurationError, match=r"metrics already.* --setting sqlite_path=\{place\}/data"):
        run("sqlite", settings=settings, select="TestSnapshots")


def test_settings_are_converted_like_variables(tmp_path: Path) -> None:
    path = str(tmp_path / "one.db")
    backend = open_by_name("sqlite", {"sqlite_path": path, "auto_migrate": "false", "pool_size": "3"})
    with pytest.raises(MigrationError):
        backend.ping()
    backend.close()
    with pytest.raises(ConfigurationError, match=r"pool_size \(STORAGE_POOL_SIZE\) must be a whole number"):
        open_by_name("sqlite", {"sqlite_path": path, "pool_size": "many"})


def open_with_settings(settings: StorageSettings) -> StorageBackend:
    assert settings.auto_migrate
    return NaiveEngine()


def open_without_jobs(place: str) -> StorageBackend:
    engine = NaiveEngine()
    del engine.jobs
    return engine


def test_a_factory_that_takes_no_folder() -> None:
    message = "was called with the path of a folder, and raised AttributeError: 'str' object has no attribute"
    with pytest.raises(ConfigurationError, match=message):
        run(f"{__name__}:open_with_settings")


def test_an_engine_without_a_store() -> None:
    with pytest.raises(ConfigurationError, match="the engine NaiveEngine lacks jobs"):
        run(f"{__name__}:open_without_jobs")
    with pytest.raises(ConfigurationError, match="the engine NaiveEngine lacks jobs"):
        Storage(open_without_jobs(""))


def test_an_unknown_engine() -> None:
    with pytest.raises(ConfigurationError, match="STORAGE_ENGINE"):
        run("unknown")


@pytest.mark.parametrize("factory", ["no_such_module:open", f"{__name__}:no_such_function"])
def test_a_factory_that_is_not_there(factory: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        run(factory)


def test_a_run_without_tests_does_not_pass() -> None:
    report = run(f"{__name__}:open_naive", select="no_such_test")
    assert (report.passed, report.contracts) == (False, ())
    assert report.trouble is not None
    assert "pytest ended with 5" in report.trouble
    assert report.trouble in render(report)


def test_a_run_that_takes_too_long() -> None:
    report = run(f"{__name__}:open_naive", timeout=0.01)
    assert report.passed is False
    assert report.trouble == "the run was stopped after 0 seconds"


def _report(*results: ContractResult) -> ConformanceReport:
    return ConformanceReport("shelf", MEMORY, results, 12.3)


def test_a_text() -> None:
    report = _report(
        ContractResult("Nonces", 3, 0, (), (), 0.25), ContractResult("Fork", 0, 2, (), ("no forks",), 0.0)
    )
    assert render(report).splitlines() == [
        "shelf conforms: 3 passed, 0 failed, 2 skipped, in 12 s",
        "protocol 2, in_process yes, durable no, multi_process no, binds no, writers 0",
        "",
        "  Nonces    3 passed  (0.2 s)",
        "  Fork      0 passed, 2 skipped  (0.0 s)",
        "",
        "skipped: no forks",
    ]


def test_a_table() -> None:
    good = _report(ContractResult("Nonces", 3, 0, (), (), 0.1), ContractResult("Fork", 0, 2, (), (), 0.0))
    bad = ContractResult("Nonces", 2, 0, (FailedTest("test_a", "no"),), (), 0.1)
    page = markdown([good, dataclasses.replace(_report(bad), engine="other")])
    assert page.splitlines()[-3:] == [
        "| `writers` | 0 | 0 |",
        "| Nonces | 3 | 2, 1 failed |",
        "| Fork | - | not run |",
    ]


def _table(page: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]


def test_the_page_is_current() -> None:
    """It has the engines and contracts that there are; `assistly conformance … --markdown` makes it anew."""
    page = PAGE.read_text(encoding="utf-8")
    empty = [ContractResult(title(one), 1, 0, (), (), 0.0) for one in contracts()]
    made = markdown([dataclasses.replace(_report(*empty), engine=name) for name in BUILT_IN])
    assert page.partition("\n| ")[0] == made.partition("\n| ")[0]
    assert [row[0] for row in _table(page)] == [row[0] for row in _table(made)]
    assert _table(page)[0] == _table(made)[0]
    assert "failed" not in page.partition("\n| ")[2]
    assert "not run" not in page


@pytest.mark.parametrize("kind", [StorageContract])
def test_no_contract_is_left_out(kind: type, tmp_path: Path) -> None:
    reported = {*contracts()}
    owners: set[type] = {owner for owner in kind.__mro__ for name in vars(owner) if name.startswith("test_")}
    assert owners <= reported
