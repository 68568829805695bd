"""`edits.json` while several commands write to the same output folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from oodgan.errors import UserError
from oodgan.stages._ledger import Ledger
from oodgan.stages._photos import find

EDIT = "edits={smile: 1.0}"


COMMAND = """
import importlib.util, sys
from oodgan import editing
from oodgan.cli import main

spec = importlib.util.spec_from_file_location("small", {conftest!r})
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
editing.Editor.from_config = classmethod(lambda cls, cfg: small.build_editor())
main(["edit", *sys.argv[1:], *small.PARTS, "aligned=true", "output=out"])
"""
"""`oodgan edit` with the small editor."""


def run_concurrently(count: int, work: Callable[[int], None]) -> None:
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # a forked child does not have the parent's threads
            code = 70
            try:
                work(number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * count


def entry(settings_hash: str, name: str) -> dict:
    return {"settings": settings_hash, "sha256": name, "photo": f"{name}.jpg", "faces": 1}


def test_concurrent_processes_lose_no_record(tmp_path: Path) -> None:
    def work(number: int) -> None:
        ledger = Ledger.open(tmp_path / "out")
        settings_hash = ledger.use({"edits": {"smile": float(number)}})
        for i in range(10):
            name = f"{number}_{i}"
            ledger.claim(name, [tmp_path / f"{name}.png"], False, **entry(settings_hash, name))
            ledger.note(name, **entry(settings_hash, name), seconds={}, notes=[])
        ledger.fail(Path(f"bad{number}.jpg"), "no face")

    run_concurrently(5, work)
    ledger = Ledger.open(tmp_path / "out")
    assert len(ledger.photos) == 50 and all(e["finished"] for e in ledger.photos.values())
    assert len(ledger.settings) == 5 and len(ledger.failures) == 5
    assert {e["settings"] for e in ledger.photos.values()} == set(ledger.settings)


def test_a_concurrent_command_with_other_settings_is_refused_before_writing(tmp_path: Path) -> None:
    one, other = Ledger.open(tmp_path), Ledger.open(tmp_path)
    first, second = one.use({"smile": 1}), other.use({"smile": 2})
    one.claim("a", [tmp_path / "a.png"], False, **entry(first, "a"))
    with pytest.raises(UserError, match=r"results of a made with other settings: smile=1 instead of 2"):
        other.claim("a", [tmp_path / "a.png"], False, **entry(second, "a"))
    other.claim("a", [tmp_path / "a.png"], True, **entry(second, "a"))
    assert Ledger.open(tmp_path).photos["a"]["settings"] == second


def test_concurrent_commands_record_all_photos(
    oodgan: Callable[..., int], tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    (tmp_path / "p").mkdir()
    for i in range(6):
        draw_face(i, 64).save(tmp_path / "p" / f"{i}.png")
    (tmp_path / "command.py").write_text(COMMAND.format(conftest=str(Path(__file__).with_name("conftest.py"))))
    # New processes: a forked one would wait for threads of this process, which networks have started.
    commands = [
        subprocess.Popen([sys.executable, "command.py", f"p/{2 * n}.png", f"p/{2 * n + 1}.png", EDIT]) for n in range(3)
    ]
    assert [command.wait(timeout=600) for command in commands] == [0, 0, 0]
    photos = json.loads(Path("out/edits.json").read_text())["photos"]
    assert sorted(photos) == list("012345") and all(entry["finished"] for entry in photos.values())
    assert oodgan("p", EDIT) == 0, "a second run finds all photos finished"


def test_results_may_be_written_to_the_folder_of_the_photos(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert oodgan("photos", EDIT, "output=photos") == 0
    assert "2 edited" in capsys.readouterr().out
    assert {p.name for p in (photos / "result").iterdir()} == {"a.png", "more"}
    assert oodgan("photos", EDIT, "output=photos") == 0, "results are not treated as photos"
    assert "0 edited, 2 skipped" in capsys.readouterr().out
    monkeypatch.chdir(photos)
    (photos / "edited").mkdir()
    (photos / "a.png").rename(photos / "edited" / "own.png")
    assert [job.name for job in find(["."], Path("elsewhere")).photos] != []
    assert oodgan("more/b.jpg", EDIT, "output=.", "replace=true") == 0


def test_results_are_not_edited_again_or_overwritten(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodgan("photos/a.png", EDIT) == 0
    before = Path("out/result/a.png").read_bytes()
    for words in (["out/result", EDIT], ["out/result/*.png", EDIT]):
        assert oodgan(*words) == 2
        assert "are results of edits, according to " in capsys.readouterr().err
    assert oodgan("out/result/a.png", EDIT, "replace=true") == 2
    assert "would overwrite" in capsys.readouterr().err
    assert Path("out/result/a.png").read_bytes() == before
    assert oodgan("out/result/a.png", EDIT, "output=again") == 0
    assert oodgan(".", EDIT, "output=all") == 0
    output = capsys.readouterr()
    assert "2 edited" in output.out and "results of earlier edits below . left out: 1 in " in output.err
    named = [find([text], Path("all")).photos for text in ("out/result", "out/result/*.png", "o*/result/*.png")]
    assert [[job.path.name for job in jobs] for jobs in named] == [["a.png"]] * 3
    assert [job.path.parent.name for job in find(["**/*.png"], Path("all")).photos] == ["photos"]
    with pytest.raises(UserError, match="all 1 pictures are results of edits"):
        find(["out"], Path("all"))


def test_a_full_disk_ends_the_run_at_once(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out/result").mkdir(parents=True)
    Path("out/result/more").mkdir()
    monkeypatch.setattr("os.replace", _no_space)
    assert oodgan("photos", EDIT) == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert output[-1].startswith("error: cannot write out/") and "No space left" in output[-1]
    assert not [p for p in Path("out").rglob("*") if p.is_file() and p.suffix != ".lock"]


def _no_space(*_: object) -> None:
    raise OSError(28, os.strerror(28))
