"""Results as tables of a Markdown page, in place of those that it had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .report import shown
from .running import Result
from .verdicts import Verdict, verdicts

BEGIN = "<!-- benchmarks: begin -->"
END = "<!-- benchmarks: end -->"
_HOLDS = {True: "yes", False: "**no**", None: ""}


def write_markdown(path: Path, environment: Mapping[str, str], results: Sequence[Result]) -> None:
    """Between the two marks, which are put at the end of a page that does not have them."""
    page = path.read_text() if path.exists() else ""
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{rendered(environment, results)}{END}{after}")


def rendered(environment: Mapping[str, str], results: Sequence[Result]) -> str:
    return "\n".join([*_table(results), "", *_environment(environment), "", *_settings(results), ""])


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield "| row | asked | reached | holds | ratio (quartiles) | Assistly | floor | others, ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for verdict in verdicts(results):
        yield _line(verdict, [other for other in results if _is_beside(other, verdict.result)])


def _is_beside(other: Result, result: Result) -> bool:
    return (other.row, other.figure) == (result.row, result.figure)


def _line(verdict: Verdict, beside: Sequence[Result]) -> str:
    result = verdict.result
    floor = next(other for other in beside if other.role == "floor")
    others = ", ".join(
        f"{other.contender} {other.ratio.median:.2f}"
        for other in sorted(beside, key=_merit, reverse=True)
        if other.role in ("peer", "reference")
    )
    asked = "; ".join(check.asked for check in verdict.checks)
    reached = "; ".join(f"{check.reached:.2f}" for check in verdict.checks)
    spread = f"{result.ratio.median:.2f} ({result.ratio.low:.2f} to {result.ratio.high:.2f})"
    return (
        f"| {result.title} | {asked} | {reached} | {_HOLDS[verdict.holds]} | {spread} "
        f"| {_amount(result)} | {_amount(floor)} | {others} |"
    )


def _merit(result: Result) -> float:
    return result.ratio.median if result.more_is_better else -result.ratio.median


def _amount(result: Result) -> str:
    return f"{shown(result.value.median)} {result.unit}"


def _environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        yield f"- {name}: {value}"


def _settings(results: Sequence[Result]) -> Iterator[str]:
    """Of the peers, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.role == "peer" and result.settings:
            rows = found.setdefault((result.contender, result.settings), [])
            if result.row not in rows:
                rows.append(result.row)
    if found:
        yield "| peer | its settings | where |"
        yield "|---|---|---|"
    for (contender, settings), rows in found.items():
        yield f"| {contender} | {settings} | {', '.join(rows)} |"
