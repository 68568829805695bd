"""The commands and code of README.md run exactly as printed, in a folder like a reader's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from oodgan.cli import main, stage_names

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ELSEWHERE = "## Several processes, resumed runs, sweeps"  # tests/training/test_readme.py runs this section
NOT_RUN = {"make demo": "it is run by hand and takes minutes", "make test": "it would run this test again"}


def blocks(language: str) -> list[str]:
    before, _, after = README.partition(f"{ELSEWHERE}\n")
    text = before + after.partition("\n## ")[2]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


@pytest.fixture
def reader(tmp_path: Path, astronaut: Image.Image) -> Path:
    """A reader's folder: photos under the names that the README uses, and the environment as `.venv`."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    astronaut.save(tmp_path / "photo.jpg", quality=95)
    photo = Image.open(tmp_path / "photo.jpg")
    for name in ("holiday/beach.jpg", "shots/one.webp", "frames/0001.jpg", "frames/0002.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith(".webp"):
            photo.save(tmp_path / name, lossless=True)  # the same pixels in each file, which are inverted once
        else:
            shutil.copy(tmp_path / "photo.jpg", tmp_path / name)
    group = Image.new("RGB", (1024, 512))
    group.paste(astronaut, (0, 0))
    group.paste(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (512, 0))
    group.save(tmp_path / "group.jpg", quality=95)
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]])}


def run(script: str, folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_here(line: str) -> None:
    """Run a line's command in this process, which has imported and loaded everything already."""
    first, *words = shlex.split(line, comments=True)
    assert first == "oodgan"
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0, line


def serve(block: str, folder: Path, start: Callable[..., subprocess.Popen]) -> str:
    """Start the block's one command, fetch the page at its address, and stop it with SIGINT."""
    command, address = block.partition("  #")[0], re.findall(r"http://\S+", block)[0]
    log, limit = folder / "serve.log", time.monotonic() + 600
    with log.open("w") as out:
        server = start(command.split(), cwd=folder, env=environment(), stdout=out, stderr=out)
    try:
        while f"the page is at {address}" not in log.read_text() and server.poll() is None:
            assert time.monotonic() < limit, log.read_text()
            time.sleep(1)
        assert server.poll() is None, log.read_text()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(address, timeout=60).read().decode()
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=300) == 0, log.read_text()


def lines() -> list[str]:
    return [line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]


def test_only_listed_readme_blocks_are_skipped() -> None:
    assert set(NOT_RUN) == {line for line in lines() if line.startswith("make")}
    other = (REPOSITORY / "tests" / "training" / "test_readme.py").read_text(encoding="utf-8")
    assert ELSEWHERE in README and ELSEWHERE in other
    assert set(re.findall(r"^```(\w*)", README, flags=re.M)) == {"sh", "python", ""}


def test_skipped_readme_commands_are_existing_make_targets() -> None:
    for command in NOT_RUN:
        subprocess.run(
            ["make", "-n", command.split()[1]], cwd=REPOSITORY, check=True, capture_output=True, timeout=60
        )  # fmt: skip


def test_the_stages_table_lists_every_stage() -> None:
    table = README.partition("## Stages")[2].partition("\n## ")[0]
    named = {
        name for cell in re.findall(r"^\| (\[?`.*?) \|", table, flags=re.M) for name in re.findall(r"`(\w+)`", cell)
    }
    assert named == set(stage_names())


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target


@pytest.mark.slow
@pytest.mark.network
def test_shell_blocks_of_the_readme_run_as_printed(
    reader: Path, start: Callable[..., subprocess.Popen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reader)
    for block in blocks("sh"):
        if block.startswith("oodgan serve"):
            assert '"title":"oodgan"' in serve(block, reader, start)
        elif block.startswith(". .venv/bin/activate"):
            run(block, reader)
        elif not any(command in block for command in NOT_RUN):
            for line in block.splitlines():
                run_here(line)
    assert Image.open(reader / "edited/result/photo.png").size == (1024, 1024)
    assert Image.open(reader / "holiday_edited/pasted/beach.jpg").size == (512, 512)
    assert len(list((reader / "ages/result").rglob("*.png"))) >= 3
    assert Image.open(reader / "group/pasted/group.png").size == (1024, 512)
    assert len(list((reader / "video").rglob("000?.png"))) >= 2


@pytest.mark.slow
@pytest.mark.network
def test_python_blocks_of_the_readme_edit_a_real_photo(reader: Path) -> None:
    for block in blocks("python"):
        (reader / "block.py").write_text(block, encoding="utf-8")
        assert "1024" in run("python block.py", reader)
    assert Image.open(reader / "pasted.jpg").size == Image.open(reader / "photo.jpg").size
    assert len(list(reader.glob("age*.png"))) == 3
