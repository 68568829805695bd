"""Shell completion, called in the way the shells do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oodgan.command import completion
from oodgan.errors import UserError


def test_stages_options_keys_and_choices_are_completed():
    assert "diffcam" in completion.complete("oodgan dif")
    assert completion.complete("oodgan diffcam diffcam=pap") == ["diffcam=paper"]
    assert "diffcam.fit.lr=" in completion.complete("oodgan diffcam experiment=tiny diffcam.fit.l")
    assert completion.complete("oodgan diffcam -m compose.mode=la") == ["compose.mode=layered"]
    assert completion.complete("oodgan diffcam nonsense=1 diffcam.fit.l") == []
    with pytest.raises(UserError, match="did you mean 'fish'"):
        completion.script("fsh")
    assert completion.script("install=bash") == completion.script("bash")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A PATH that contains `oodgan`."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "oodgan").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m oodgan "$@"\n')
    (folder / "oodgan").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def in_shell(name: str, script: str, path: str) -> str:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [name, "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash_completes_an_option(path):
    script = (
        'eval "$(oodgan --shell-completion bash)"; COMP_LINE="oodgan diffcam diffcam=pa"; COMP_POINT=${#COMP_LINE}; '
        "COMP_WORDS=(oodgan diffcam diffcam = pa); COMP_CWORD=4; compopt() { :; }; _oodgan; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert in_shell("bash", script, path).split() == ["paper"]


def test_fish_completes_an_option(path):
    script = 'oodgan --shell-completion fish | source; complete -C "oodgan diffcam diffcam=pa"'
    assert in_shell("fish", script, path).split() == ["diffcam=paper"]


def test_zsh_completes_an_option(path, tmp_path: Path):
    script = (
        "autoload -Uz compinit; compinit -u -D; compadd() { print -r -- ${@[(i)--]:+${@:$((${@[(i)--]}+1))}} }; "
        'eval "$(oodgan --shell-completion zsh)"; words=(oodgan diffcam diffcam=pa); CURRENT=3; _oodgan'
    )
    assert in_shell("zsh", script, path).split() == ["diffcam=paper"]
