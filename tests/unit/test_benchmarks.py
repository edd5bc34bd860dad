"""The benchmarks run, judge rightly, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import thresholds
from benchmarks.compare import compared
from benchmarks.markdown import BEGIN, END, write_markdown
from benchmarks.model import Contender, Environment, Figure, Measure, Row, throughput
from benchmarks.report import as_dict
from benchmarks.rows import ROWS, chosen
from benchmarks.running import RowResults, run_row
from benchmarks.thresholds import THRESHOLDS, Threshold
from benchmarks.verdicts import verdicts

ROOT = Path(__file__).parents[2]
LOCAL = [row for row in ROWS if not row.needs_postgres]


def environment(folder: Path) -> Environment:
    return Environment(None, folder, "tiny")


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.key)
def test_rows_run(row: Row, tmp_path: Path) -> None:
    outcome = run_row(row, environment(tmp_path), rounds=1)
    assert {result.contender for result in outcome.results} == {
        contender.name for contender in row.contenders if not contender.requires
    }
    for result in outcome.results:
        assert all(value > 0 for value in result.values)


def test_rows_have_a_name_of_their_own_and_contenders_too() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert len({contender.name for contender in row.contenders}) == len(row.contenders), row.key
        assert [contender.role for contender in row.contenders].count("ours") == 1, row.key


def test_each_figure_has_its_threshold() -> None:
    assert {row.key: len(row.figures) for row in ROWS} == {
        key: len(asked) for key, asked in THRESHOLDS.items()
    }


def test_rows_are_chosen_by_name_or_by_how_they_begin() -> None:
    assert [row.key for row in chosen(["pg-nonce"])] == ["pg-nonce"]
    assert [row.key for row in chosen(["sqlite-n", "import"])] == ["sqlite-nonce", "sqlite-nonces", "import"]
    assert chosen([]) == list(ROWS)
    with pytest.raises(ValueError, match="no row is called pg-nothing"):
        chosen(["pg-nonce", "pg-nothing"])


def fixed(*values: float, name: str = "fixed", log: list[str] | None = None, **options: object) -> Contender:
    """A contender that measures these values, in turn."""

    @contextmanager
    def opened(_: Environment) -> Iterator[Measure]:
        warm_up = iter([(0.0,)])
        rounds = iter([(value,) for value in values])

        def measure(_: int) -> tuple[float, ...]:
            if log is not None:
                log.append(name)
            return next(warm_up, None) or next(rounds)

        yield measure

    return Contender(name, opened, **options)  # type: ignore[arg-type]


def peer(*values: float, name: str) -> Contender:
    return fixed(*values, name=name, role="peer", requires=("pytest",))


def run(folder: Path, *contenders: Contender, figure: Figure | None = None, rounds: int = 3) -> RowResults:
    row = Row("row", "title", (figure or Figure("/s"),), {"tiny": 1}, contenders, rounds={"tiny": rounds})
    return run_row(row, environment(folder), peers=True)


def test_ratios_are_those_of_single_rounds(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        fixed(10, 100, 1000, name="floor", role="floor"),
        fixed(9, 50, 900, name="ours"),
    )
    _, ours = outcome.results
    assert ours.ratios == [0.9, 0.5, 0.9]
    assert (ours.value.median, ours.ratio.median) == (50, 0.9)
    assert as_dict(ours)["ratio"] == {"low": 0.7, "median": 0.9, "high": 0.9}


FASTER, SHORTER = Figure("/s"), Figure("ms", more_is_better=False)


@pytest.mark.parametrize(
    ("figure", "threshold", "value", "holds"),
    [
        (FASTER, Threshold(0.5), 5.0, True),
        (FASTER, Threshold(0.5), 4.9, False),
        (SHORTER, Threshold(1.3), 13.0, True),
        (SHORTER, Threshold(1.3), 13.1, False),
        (SHORTER, Threshold(value=50), 50.0, True),
        (SHORTER, Threshold(value=50), 50.1, False),
        (FASTER, Threshold(peers=2), 8.0, True),
        (FASTER, Threshold(peers=2), 7.9, False),
        (FASTER, Threshold(0.1, peers=2), 7.9, False),
        (SHORTER, Threshold(peers=2), 1.0, True),
        (SHORTER, Threshold(peers=2), 1.1, False),
        (FASTER, Threshold(), 0.1, None),
    ],
)
def test_verdicts(
    figure: Figure,
    threshold: Threshold,
    value: float,
    holds: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(thresholds.THRESHOLDS, "row", (threshold,))
    outcome = run(
        tmp_path,
        fixed(10.0, name="floor", role="floor"),
        fixed(value, name="ours"),
        peer(4.0 if figure.more_is_better else 2.0, name="best"),
        peer(3.0 if figure.more_is_better else 9.0, name="other"),
        figure=figure,
        rounds=1,
    )
    (verdict,) = verdicts(outcome.results)
    assert (verdict.result.contender, verdict.peer, verdict.holds) == ("ours", "best", holds)


def test_without_peers_only_the_ratio_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(thresholds.THRESHOLDS, "row", (Threshold(0.5, peers=2),))
    outcome = run(tmp_path, fixed(10.0, name="floor", role="floor"), fixed(5.0, name="ours"), rounds=1)
    (verdict,) = verdicts(outcome.results)
    assert (verdict.peer, [check.asked for check in verdict.checks], verdict.holds) == (None, ["≥ 0.5"], True)


def test_contenders_take_turns(tmp_path: Path) -> None:
    log: list[str] = []
    run(tmp_path, *(fixed(1, 1, 1, name=name, log=log) for name in "abc"))
    assert "".join(log) == "abc" + "abc" + "bca" + "cab"


def test_a_library_that_fails_or_is_missing_is_named_and_left_out(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        fixed(1, 1, 1, name="floor", role="floor"),
        peer(1, name="runs out"),
        fixed(1, name="missing", role="peer", requires=("no-such-distribution",)),
    )
    assert [result.contender for result in outcome.results] == ["floor"]
    assert [(one.contender, one.reason.split(":")[0]) for one in outcome.left_out] == [
        ("missing", "not installed"),
        ("runs out", "StopIteration"),
    ]


def test_a_failure_of_ours_is_raised(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):
        run(tmp_path, fixed(1, 1, 1, name="floor", role="floor"), fixed(1, name="ours"))


def test_work_that_is_not_done_is_no_result() -> None:
    with pytest.raises(AssertionError, match="1 of 2"):
        throughput(lambda _: 1, lambda count: count)(2)


def command(*arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout


def test_command(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    printed = command("benchmarks", "--tiny", "memory-nonce", "--json", str(results))
    assert "raw driver" in printed
    assert "≥ 0.2" in printed
    document = json.loads(results.read_text())
    assert "Python" in document["environment"]
    assert {result["row"] for result in document["results"]} == {"memory-nonce"}


def test_two_checkouts_are_compared() -> None:
    printed = command("benchmarks.compare", "memory-nonce", str(ROOT), "--tiny", "--rounds", "2")
    assert printed.startswith("memory-nonce: ")
    assert "in 2 rounds" in printed


def test_a_comparison_is_of_single_rounds() -> None:
    row = Row("row", "title", (FASTER,), {}, (), rounds={})
    assert compared(row, ([[10.0], [100.0], [10.0]], [[20.0], [50.0], [30.0]])) == (
        "row: 10.00 then 30.00 /s, ratio 2.000 (1.250 to 2.500) in 3 rounds\n"
    )


def test_markdown_takes_the_place_of_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(thresholds.THRESHOLDS, "row", (Threshold(0.9, peers=2),))
    outcome = run(
        tmp_path,
        fixed(10, 10, 10, name="floor", role="floor"),
        fixed(4, 5, 6, name="Assistly"),
        fixed(1, 1, 1, name="other", role="peer", settings="its best", requires=("pytest",)),
    )
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{BEGIN}\nstale\n{END}\n\nAfter.\n")
    for _ in range(2):
        write_markdown(page, {"Python": "3"}, outcome.results)
    text = page.read_text()
    assert text.startswith("Before.\n\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "stale" not in text
    assert (
        "| title | ≥ 0.9; ≥ 2 × best peer | 0.50; 5.00 | **no** | 0.50 (0.45 to 0.55) "
        "| 5.00 /s | 10.00 /s | other 0.10 |"
    ) in text
    assert text.count("| other | its best | row |") == 1
