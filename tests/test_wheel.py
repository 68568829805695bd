"""The built wheel is complete, and its command finds its configs from any folder."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*words: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("src", "conf"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist")
    run(*command, cwd=source)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with only the wheel; dependencies come from the environment that runs this test."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--no-deps",
        "-q",
        wheel,
        cwd=folder,
    )
    site = Path(
        run(
            folder / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_setup_cfg_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    source = REPOSITORY / "src"
    there = {".".join(p.parent.relative_to(source).parts) for p in (source / "oodgan").rglob("__init__.py")}
    assert listed == there | {"oodgan.conf"}


def test_every_folder_with_code_is_a_package() -> None:
    folders = {p.parent for p in (REPOSITORY / "src" / "oodgan").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.slow
def test_the_wheel_contains_code_configs_and_shipped_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    code = {p.relative_to(REPOSITORY / "src").as_posix() for p in (REPOSITORY / "src" / "oodgan").rglob("*.py")}
    configs = {
        f"oodgan/conf/{p.relative_to(REPOSITORY / 'conf').as_posix()}" for p in (REPOSITORY / "conf").rglob("*.yaml")
    }
    shipped = {
        f"oodgan/weights/shipped/{p.name}" for p in (REPOSITORY / "src/oodgan/weights/shipped").iterdir() if p.is_file()
    }
    assert code | configs | shipped | {"oodgan/py.typed", "oodgan/reporting/page.html.jinja"} <= held
    assert any(name.endswith("LICENSE") for name in held)


@pytest.mark.slow
def test_the_installed_command_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    python, command = installed / "bin" / "python", installed / "bin" / "oodgan"
    assert "edit" in run(command, "--help", cwd=tmp_path)
    assert "edits: ???" in run(command, "edit", "--help", cwd=tmp_path)
    where = run(python, "-c", "import oodgan; print(oodgan.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed)
    code = (
        "from oodgan.launch import compose, config_folder as c; print(c()); print(compose('edit').generator._target_)"
    )
    folder, target = run(python, "-c", code, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(installed) and target.startswith("oodgan.generators.")


@pytest.mark.slow
@pytest.mark.network
def test_the_installed_package_edits_a_photo_with_its_shipped_weights(
    installed: Path, tmp_path: Path, astronaut
) -> None:
    command = installed / "bin" / "oodgan"
    astronaut.save(tmp_path / "photo.png")
    assert "encoder_light" in run(command, "doctor", cwd=tmp_path)
    run(command, "edit", "photo.png", "edits={smile: 1}", "inverter.refine.steps=0", "output=out", cwd=tmp_path)
    assert (tmp_path / "out" / "result" / "photo.png").stat().st_size > 100_000
