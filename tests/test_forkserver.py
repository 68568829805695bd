"""Forked commands are processes like those that `python -m oodgan` starts from nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import forkserver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are forked on Linux only")

OODGAN = [sys.executable, "-m", "oodgan"]


def from_nothing(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", forkserver.Popen.__base__)
        return subprocess.run([*OODGAN, *words], **options)


@pytest.mark.parametrize("words", [["--version"], ["editt"]])
def test_a_forked_command_prints_and_returns_the_same(tmp_path: Path, words: list[str]) -> None:
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    forked, real = subprocess.run([*OODGAN, *words], **options), from_nothing(*words, **options)
    assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)
    assert forked.returncode == (0 if words == ["--version"] else 2)


def test_a_forked_command_has_its_own_folder_environment_and_modules(tmp_path: Path) -> None:
    """It finds classes in its working folder and in PYTHONPATH, and this process is its parent."""
    code = (
        "import os\ndef stop(**_):\n    raise OSError(1, f'{os.getcwd()} {os.environ[\"WORD\"]} {os.getppid()}', 'x')\n"
    )
    work, path = tmp_path / "work", tmp_path / "path"
    for folder in (work, path):
        folder.mkdir()
        (folder / f"own_{folder.name}.py").write_text(code)
        words = ["diffcam", "experiment=tiny", f"generator={{_target_: own_{folder.name}.stop}}"]
        environment = {**os.environ, "PYTHONPATH": str(path), "WORD": folder.name}
        done = subprocess.run([*OODGAN, *words], cwd=work, env=environment, capture_output=True, text=True)
        assert f"{work} {folder.name} {os.getpid()}" in done.stderr, done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_forked_command_is_a_child_process_that_signals_end(tmp_path: Path, number: signal.Signals) -> None:
    words = ["diffcam", "experiment=tiny", "diffcam.fit.max_steps=1000000", f"root={tmp_path}"]
    with subprocess.Popen([*OODGAN, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "steps/s" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        rest = process.communicate(timeout=120)[1]
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[number], rest


def test_commands_are_not_forked_if_their_imports_could_differ() -> None:
    assert forkserver.Popen._may_fork({**os.environ, "PYTHONPATH": "elsewhere", "WORD": "1"})
    for name in ("OMP_NUM_THREADS", "PYTHONHASHSEED", "MPLBACKEND", "COVERAGE_PROCESS_CONFIG"):
        assert not forkserver.Popen._may_fork({**os.environ, name: "7"}), name
