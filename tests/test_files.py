"""Atomic file writes even with disk errors, strict JSON, file names within the limit."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from oodgan.errors import UserError
from oodgan.files import LONGEST, below, fitting, full, locked, replacing, to_json, write_json, write_text, writing

SOURCES = Path(__file__).resolve().parents[1] / "src" / "oodgan"


def in_child(work: Callable[[], None]) -> int:
    """Run a function in a forked process; returns its exit code, 70 for any error."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 100_000),
    "picture": lambda path: Image.effect_noise((300, 300), 90).save(path, "PNG"),
    "tensors": lambda path: save_file({"x": torch.zeros(100_000)}, path),
    "arrays": lambda path: np.savez(path.open("wb"), x=np.zeros(100_000)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_error_is_a_one_line_error_and_keeps_the_old_file(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "file"
    write_text(place, "before")

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for attempt in (lambda: _replace(place, kind), lambda: _write_folder(tmp_path / "folder", kind)):
            with pytest.raises(UserError, match=r"cannot write .*: File too large") as error:
                attempt()
            assert "\n" not in str(error.value)

    assert in_child(work) == 0
    assert place.read_text() == "before"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "file"], "no partial file is left"


def _replace(place: Path, kind: str) -> None:
    with replacing(place) as temporary:
        WRITERS[kind](temporary)


def _write_folder(place: Path, kind: str) -> None:
    with writing(place) as folder:
        WRITERS[kind](folder / "file")


def test_other_errors_are_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_full_is_true_for_a_full_disk_and_not_for_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long") as error:
        write_text(tmp_path / ("n" * 300), "x")
    assert not full(error.value)
    with pytest.raises(UserError, match="No space left") as error, replacing(tmp_path / "a") as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_text("x")
    assert full(error.value)


def test_the_error_for_a_file_in_a_folder_names_its_final_path(tmp_path: Path) -> None:
    message = rf"^cannot write {tmp_path / 'folder'}/n{{300}}: File name too long"
    with pytest.raises(UserError, match=message) as error, writing(tmp_path / "folder") as folder:
        write_text(folder / ("n" * 300), "x")
    assert isinstance(error.value.__cause__, OSError) and not list(tmp_path.iterdir())


def test_processes_that_lock_a_file_wait_for_each_other(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def work() -> None:
        for _ in range(25):
            with locked(count):
                write_text(count, str(int(count.read_text()) + 1))

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        children.append(child)
    assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
    assert count.read_text() == "100"
    with locked(count), pytest.raises(UserError, match=r"another process has locked .*count for over 0\.1 seconds"):
        assert in_child(lambda: None) == 0
        with locked(count, patience=0.1):
            pass


@pytest.mark.parametrize(
    ("stem", "ending"),
    [("n" * 250, ".png"), ("写" * 85, "_face0_age+1.png"), ("caf\udce9" * 90, ".jpg"), ("a", ".x")],
)
def test_long_names_are_shortened_to_the_limit_of_the_file_system(stem: str, ending: str, tmp_path: Path) -> None:
    name = fitting(stem, ending)
    assert len(os.fsencode(name)) <= LONGEST and name.endswith(ending)
    (tmp_path / name).write_text("")
    assert fitting(stem + "b", ending) != name
    if stem.isascii() and len(stem) < 9:
        assert name == stem + ending


def test_a_name_with_a_folder_becomes_a_path_in_that_folder() -> None:
    assert below(Path("made"), "anna/" + "n" * 300, ".png").parent == Path("made/anna")


def test_json_is_strict_and_keeps_names_that_are_not_ascii(tmp_path: Path) -> None:
    value = {"fid": float("nan"), "psnr": [float("inf"), np.float32(1.5)], "n": np.int64(3), "t": torch.tensor(2.0),
             "file": "caf\udce9 写真.png", "path": tmp_path}  # fmt: skip
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert "写真" in text and "NaN" not in text

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    back = json.loads(text, parse_constant=refuse)
    assert back == {"fid": None, "psnr": [None, 1.5], "n": 3, "t": 2.0, "file": value["file"], "path": str(tmp_path)}
    assert to_json({"a": 1}, indent=None) == '{"a": 1}\n'


def test_only_listed_modules_write_json_and_none_creates_temporary_files_itself() -> None:
    """Other modules use `json.dumps` only for hashes and for metadata inside safetensors files."""
    allowed = {"files.py", "directions/bank.py", "directions/probes.py", "evaluation/protocol.py", "weights/trained.py",
               "generators/preview.py", "tracking/artifacts.py", "training/sweep.py", "deghost/ghosts.py",
               "data/conversion.py", "data/known.py"}  # fmt: skip
    texts = {path.relative_to(SOURCES).as_posix(): path.read_text() for path in SOURCES.rglob("*.py")}
    assert {name for name, text in texts.items() if "json.dump" in text} <= allowed
    assert {name for name, text in texts.items() if '.tmp"' in text or ".tmp'" in text} == set()
