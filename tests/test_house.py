"""Files for contributors and CI: the workflow, pre-commit, matching versions, the version line of bug reports."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import oodgan
from oodgan import cli
from oodgan.command.version import version_line

REPOSITORY = Path(__file__).resolve().parents[1]


def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def load(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))


def pins() -> dict[str, Requirement]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name.lower(): requirement for requirement in parsed}


def test_the_workflow_runs_ci_and_lint_on_every_supported_python() -> None:
    job = load(".github/workflows/tests.yml")["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run", "make lint"]
    versions = job["strategy"]["matrix"]["python"]
    assert all(version in SpecifierSet(setup()["options"]["python_requires"]) for version in versions)
    assert versions == re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])


def test_pre_commit_uses_the_tested_ruff() -> None:
    hooks = load(".pre-commit-config.yaml")["repos"][0]["hooks"]
    used = {pin for hook in hooks for pin in hook["additional_dependencies"] if pin.startswith("ruff")}
    assert used == {f"ruff{pins()['ruff'].specifier}"}


def test_tested_versions_are_within_the_allowed_ranges() -> None:
    extras = setup()["options.extras_require"]
    wanted = setup()["options"]["install_requires"] + "".join(extras[name] for name in extras)
    for requirement in map(Requirement, filter(None, wanted.splitlines())):
        pin = pins().get(requirement.name.lower())
        if pin is not None:  # Ray is a separate extra
            (version,) = pin.specifier
            assert version.version in requirement.specifier, requirement


def test_the_version_is_the_same_everywhere() -> None:
    assert load("CITATION.cff")["version"] == setup()["metadata"]["version"] == oodgan.__version__


def test_the_version_line_names_commit_python_and_torch() -> None:
    line = version_line()
    version = re.escape(oodgan.__version__)
    assert re.fullmatch(rf"oodgan {version} \((commit \w{{12}}(-dirty)?, )?Python 3\.\d+\.\d+, torch 2\S+, .+\)", line)
    done = subprocess.run([sys.executable, "-m", "oodgan", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == line


def test_an_unexpected_error_ends_with_the_version_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> int:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(cli, "_main", broken)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 1
    assert "ZeroDivisionError: inside" in lines and version_line() in lines[-1]
