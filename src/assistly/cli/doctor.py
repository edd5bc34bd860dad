"""`assistly doctor`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Utc
from .output import Output, plural

if TYPE_CHECKING:
    from assistly.doctor.runner import Report

_INDENT = 12


def _complete_check(incomplete: str) -> list[str]:
    from assistly.doctor.runner import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def doctor(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="CHECK",
            help="Run only this check. Repeatable.",
            autocompletion=_complete_check,
        ),
    ] = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Check the storage and its environment, and say how to fix each problem.

    It changes nothing. The exit code is 1 if there is a problem, and 3 if the storage cannot be reached;
    with warnings alone it is 0. Times are shown as ages, so --utc has no effect.
    """
    from assistly.doctor import runner

    wanted = only or []
    if unknown := [name for name in wanted if name not in runner.NAMES]:
        raise typer.BadParameter(
            f"no check is named {', '.join(unknown)}; the checks are {', '.join(runner.NAMES)}",
            param_hint="--only",
        )
    out = Output(json=json, utc=utc)
    report = runner.run(wanted, owns_process=context.obj is True)
    if report.place is not None:
        out.remark(f"storage: {report.place}")
    _print(out, report)
    if report.unreachable:
        raise typer.Exit(3)
    if report.verdict == "problem":
        raise typer.Exit(1)


def _print(out: Output, report: Report) -> None:
    if out.json:
        out.document(report)
        return
    for finding in report.findings:
        out.say(f"{finding.verdict:<{_INDENT - 1}} {finding.check}: {finding.reason}", indent=_INDENT)
        for line in (finding.mend or "").splitlines():
            if _is_sql(line):
                out.command(line, indent=_INDENT)
            else:
                out.say(" " * _INDENT + line, indent=_INDENT)
    counts = Counter(str(finding.verdict) for finding in report.findings)
    order = ("problem", "warning", "not checked", "ok")
    out.say(", ".join(_counted(counts[verdict], verdict) for verdict in order if verdict in counts))


def _counted(count: int, verdict: str) -> str:
    return plural(count, verdict) if verdict in ("problem", "warning") else f"{count} {verdict}"


def _is_sql(line: str) -> bool:
    """Whether the line is a statement, which is not wrapped, so that it can be copied."""
    return line.partition(" ")[0].isupper()
