"""The layers of packages in `pyproject.toml` (`[tool.importlinter]`), and heavy packages that are imported late."""

from __future__ import annotations

import ast
import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oodgan import _imports

tomllib = pytest.importorskip("tomllib")

REPOSITORY = Path(__file__).resolve().parents[1]
CHECK = """
import sys
from importlinter.cli import lint_imports
sys.path.insert(0, "src")
sys.exit(lint_imports(no_cache=True))
"""


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHECK], cwd=folder, capture_output=True, text=True)


def test_imports_follow_the_layers() -> None:
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "metrics/similarity.py",
            "from oodgan.evaluation import score",
            "oodgan.metrics.similarity -> oodgan.evaluation.score",
        ),
        (
            "deghost/remover.py",
            "from oodgan.inversion.module import InversionModule",
            "oodgan.deghost.remover -> oodgan.inversion.module",
        ),
        ("lost/__init__.py", "", "oodgan.lost"),
    ],
    ids=["upwards", "another part's Lightning module", "a package without a place"],
)
def test_the_linter_names_a_forbidden_import(tmp_path: Path, file: str, line: str, message: str) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    copy = tmp_path / "src" / "oodgan"
    shutil.copytree(REPOSITORY / "src" / "oodgan", copy, ignore=shutil.ignore_patterns("shipped", "__pycache__"))
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a", encoding="utf-8") as held:
        held.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and message in done.stdout, done.stdout + done.stderr


def test_every_lightning_module_is_protected_from_imports_by_other_parts() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (protected,) = (contract["protected_modules"] for contract in contracts if contract["type"] == "protected")
    result = set()
    for part in ("deghost", "compose", "diffcam", "inversion", "directions", "parsing"):
        for path in (REPOSITORY / "src/oodgan" / part).glob("*.py"):
            classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
            if any(
                ast.unparse(base).endswith("Module") and "nn." not in ast.unparse(base)
                for c in classes
                for base in c.bases
            ):
                result.add(f"oodgan.{part}.{path.stem}")
    assert result == set(protected)


DELAYED = """
import sys
import oodgan
from oodgan import launch
from oodgan.command import checks
import oodgan.stages.edit, oodgan.stages._common
checks.checked(launch.compose("edit"), launch.config_folder())
assert "torch" in sys.modules and "pytorch_lightning" not in sys.modules
"""


def test_heavy_packages_are_imported_only_where_they_are_used() -> None:
    done = subprocess.run([sys.executable, "-c", DELAYED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_garbage_collector_pauses_for_the_first_imports_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_imports, "_frozen", False)
    try:
        gc.unfreeze()
        with _imports.uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() > 0
        with _imports.uncollected():
            assert gc.isenabled()
    finally:
        gc.freeze()  # as in conftest.py
