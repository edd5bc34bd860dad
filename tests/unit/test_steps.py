"""`python -m tests`: a step for each engine, one exit code."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

runner: Any = import_module("tests.__main__")

ROOT = Path(__file__).resolve().parents[2]


def test_each_engine_has_a_file_with_its_contract() -> None:
    for engine, path in runner.CONTRACTS.items():
        assert f"class Test{engine.capitalize()}(StorageContract)" in (ROOT / path).read_text(
            encoding="utf-8"
        )


def test_every_test_is_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    *contracts, rest = _steps(monkeypatch, [])
    assert {step.name for step in contracts} == {f"contract on {engine}" for engine in runner.CONTRACTS}
    assert rest.name == "everything else"
    assert rest.arguments[0] == "tests"
    assert {*rest.arguments[1:]} == {f"--ignore={step.arguments[0]}" for step in contracts}


def test_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [step.name for step in _steps(monkeypatch, ["--engine", "sqlite"])] == ["contract on sqlite"]
    assert [step.name for step in _steps(monkeypatch, ["--rest"])] == ["everything else"]


def test_one_failed_step_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(step: Any, *_: Any, **__: Any) -> Any:
        failed = int(step.name == "contract on sqlite")
        return runner.Result(step, failed, 1.5, Counter(passed=2, failed=failed))

    monkeypatch.setattr(runner, "run", run)
    assert runner.main([]) == 1
    printed = capsys.readouterr().out
    assert "FAILED  contract on sqlite" in printed
    assert "=== 1 failed, 10 passed in " in printed


def test_a_step_reports_what_pytest_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('no')\ndef test_c(): assert 0\n"
    )
    step = runner.Step("small", [str(tmp_path)])
    result = runner.run(step, ["-q", "-p", "no:cacheprovider"], os.environ, streams=False)
    assert result.code == 1
    assert result.counts == Counter(passed=1, skipped=1, failed=1)
    printed = capsys.readouterr().out
    assert printed.startswith("\n=== small ===\n")
    assert "1 failed, 1 passed, 1 skipped" in printed


def test_bytecode_is_kept_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    variables = runner.environment("place")
    assert variables["PYTHONPYCACHEPREFIX"] == "place"
    assert "PYTHONDONTWRITEBYTECODE" not in variables


def _steps(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> list[Any]:
    steps: list[Any] = []

    def run(step: Any, *_: Any, **__: Any) -> Any:
        steps.append(step)
        return runner.Result(step, 0, 0.0, Counter(passed=1))

    monkeypatch.setattr(runner, "run", run)
    assert runner.main(arguments) == 0
    return steps
