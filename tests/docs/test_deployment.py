"""The files on the pages about deployment are well-formed, and agree with the worker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

from assistly.cli import app
from assistly.storage import StorageSettings
from assistly.storage.engines.postgres.connections import _CONFIGURE
from docs.blocks import ROOT

HOW_TO = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"<!-- checked: (\w+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

WORKER: Any = typer.main.get_command(app).commands["worker"]  # type: ignore[attr-defined]
OPTIONS = {name for option in WORKER.params for name in option.opts}
GRACE = next(option.default for option in WORKER.params if option.name == "grace")
VARIABLES = {str(field.validation_alias) for field in StorageSettings.model_fields.values()}


def blocks(kind: str) -> list[tuple[Path, str]]:
    pages = sorted(HOW_TO.glob("*.md"))
    found = [(page, *match) for page in pages for match in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [(page, text) for page, name, text in found if name == kind]


def documents(page: str) -> list[Any]:
    load: Callable[[str], Any] = import_module("yaml").safe_load_all
    return [one for path, text in blocks("yaml") if path.name == page for one in load(text)]


def is_a_call_of_the_worker(words: list[str]) -> bool:
    return "worker" in words and {word for word in words if word.startswith("--")} <= OPTIONS


def test_the_planner_settings_behind_a_pooler() -> None:
    """The page sets for the role what the storage sets in its own sessions."""
    page = (HOW_TO / "pgbouncer.md").read_text(encoding="utf-8")
    own = dict(re.findall(r"\('((?:enable_|jit|plan_)\w*)', '(\w+)'\)", _CONFIGURE))
    assert dict(re.findall(r"^ *ALTER ROLE bot SET (\w+) = (\w+);$", page, re.MULTILINE)) == own


def test_systemd() -> None:
    [(_, text)] = blocks("systemd")
    unit = ConfigParser(interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert is_a_call_of_the_worker(unit["Service"]["ExecStart"].split())
    assert int(unit["Service"]["TimeoutStopSec"]) > GRACE


def test_the_image() -> None:
    [(_, text)] = blocks("Dockerfile")
    steps = dict(line.split(" ", 1) for line in text.splitlines())
    assert {*steps} <= {"FROM", "WORKDIR", "COPY", "RUN", "USER", "STOPSIGNAL", "ENTRYPOINT"}
    assert is_a_call_of_the_worker(json.loads(steps["ENTRYPOINT"]))


def test_compose() -> None:
    [compose] = documents("docker.md")
    worker = compose["services"]["worker"]
    assert {*worker["environment"]} - {"PGPASSWORD"} <= VARIABLES
    assert int(worker["stop_grace_period"].removesuffix("s")) > GRACE
    assert {word for word in worker["command"] if word.startswith("--")} <= OPTIONS
    assert {*worker["depends_on"]} < {*compose["services"]}
    (host,) = re.findall(r"@(\w+)/", worker["environment"]["DATABASE_URL"])
    assert host in compose["services"]
    (volume,) = compose["services"][host]["volumes"]
    assert volume.partition(":")[0] in compose["volumes"]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_kubernetes(kind: str) -> None:
    [resource] = [one for one in documents("kubernetes.md") if one["kind"] == kind]
    pod = resource["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {variable["name"] for variable in container["env"]} <= VARIABLES
    if kind == "Job":
        assert container["command"] == ["assistly", "migrate"]
        return
    assert {word for word in container["args"] if word.startswith("--")} <= OPTIONS
    assert pod["terminationGracePeriodSeconds"] > GRACE
    labels = resource["spec"]["template"]["metadata"]["labels"]
    assert resource["spec"]["selector"]["matchLabels"] == labels
    ports = {port["name"] for port in container["ports"]}
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
