"""`oodgan export`: files, table and manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oodgan import editing
from oodgan.cli import main
from oodgan.editing import Editor
from oodgan.tracking.artifacts import Manifest

PARTS = ["mapping", "synthesis", "synthesis_16", "encoder", "diffcam", "deghoster"]
CHOICES = ["generator=tiny", "inverter=optimisation", "directions=sefa", "diffcam.weights=null", "deghoster=none"]


@pytest.fixture
def export(editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`export("format=openvino")`: run the stage on small networks, in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(editing.Editor, "from_config", classmethod(lambda cls, cfg: editor))

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["export", *words, *CHOICES, "sizes=[16,256]", "repeats=1"])
        return int(stop.value.code or 0)

    return run


@pytest.mark.slow
def test_all_parts_are_exported_and_a_second_run_changes_nothing(
    export: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    assert export("format=openvino") == 0
    folder = Path("runs/default/export/artifact")
    assert sorted(path.stem for path in folder.glob("*.bin")) == sorted(PARTS)
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:-2]] == PARTS
    numbers = json.loads((folder / "speed.json").read_text())["parts"]
    assert all(row["openvino"]["error"] < 1e-3 and row["openvino"]["seconds"] > 0 for row in numbers)
    manifest = Manifest.load(folder)
    assert manifest.generator and manifest.directions == ["smile", "age"] and manifest.inputs["bank"]
    assert {"torch", "openvino"} <= set(manifest.extra["versions"])
    assert "synthesis.xml" in manifest.files

    before = (folder / "synthesis.xml").stat().st_mtime_ns
    assert export("format=openvino") == 0
    assert (folder / "synthesis.xml").stat().st_mtime_ns == before
    assert table in capsys.readouterr().out
    assert export("format=openvino", "threads=1") == 2
    assert "made with other settings (threads)" in capsys.readouterr().err


def test_nothing_is_written_when_a_part_differs_from_pytorch(
    export: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    assert export("format=openvino", "tolerance=1e-12") == 2
    assert "differs from PyTorch by" in capsys.readouterr().err
    assert not Path("runs/default/export/artifact").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("format=onx", "did you mean 'onnx'"),
        ("format=[]", "format is empty"),
        ("tolerance=0", "tolerance=0"),
        ("threads=-1", "threads=-1"),
    ],
)
def test_invalid_options_are_one_line_errors(
    words: str, message: str, export: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")
