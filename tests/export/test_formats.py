"""Exported parts give the same outputs as PyTorch on inputs other than those of the export."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from oodgan.editing import Editor
from oodgan.errors import UserError
from oodgan.export import check, formats
from oodgan.export.parts import deployed, sample


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("mapping", "onnx"),
        ("synthesis", "openvino"),
        pytest.param("synthesis", "onnx", marks=pytest.mark.slow),
        ("synthesis_16", "openvino"),
        ("encoder", "openvino"),
        pytest.param("encoder", "onnx", marks=pytest.mark.slow),
        ("diffcam", "openvino"),
        pytest.param("diffcam", "onnx", marks=pytest.mark.slow),
        ("deghoster", "onnx"),
    ],
)
def test_exported_parts_give_the_same_output_as_pytorch(name: str, format: str, editor: Editor, tmp_path: Path) -> None:
    pytest.importorskip(formats.NEEDS[format][-1], reason="the export extra is not installed")
    part = next(part for part in deployed(editor, [16]) if part.name == name)
    path = formats.write(part, sample(editor, seed=0), tmp_path, format)
    run, other = formats.open_run(path, threads=1), sample(editor, seed=1)
    wanted = check.eager(part, other)
    assert check.difference(wanted, run([other[key] for key in part.inputs])) < 1e-4
    assert len(wanted) == len(part.outputs) and all(float(one.std()) > 0 for one in wanted)
    assert check.size_of(path) > 0


@pytest.mark.parametrize(("old", "new"), [(640, 160), (101, 33), (40, 160)])
def test_resizing_by_matrix_products_equals_antialiased_interpolation(old: int, new: int) -> None:
    x = torch.rand(1, 3, old, old + 7)
    wanted = F.interpolate(x, (new, new), mode="bilinear", antialias=True)
    assert torch.allclose(formats._resize_antialiased(x, (new, new)), wanted, atol=1e-5)


def test_different_or_infinite_outputs_are_detected() -> None:
    one = torch.zeros(2, 2)
    assert check.difference([one], [one + 0.5]) == 0.5
    assert check.difference([one, one], [one, one * float("nan")]) == float("inf")
    assert check.difference([one], [torch.zeros(2, 3)]) == float("inf")


def test_unknown_formats_and_missing_packages_are_one_line_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'openvino'"):
        formats.check("openvin")
    monkeypatch.setitem(sys.modules, "openvino", None)  # simulates a missing package
    with pytest.raises(UserError, match=r"pip install 'oodgan\[export\]'"):
        formats.check("openvino")


def test_signals_are_still_handled_after_openvino() -> None:
    if find_spec("openvino") is None:
        pytest.skip("the export extra is not installed")
    # Without restoring the signal stack the second signal kills Python: SIGSEGV, exit code -11.
    code = """
import faulthandler, gc, os, signal, sys, tempfile
from pathlib import Path
faulthandler.enable()
import oodgan, openvino, torch
from oodgan.export import formats
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
class Square(torch.nn.Module):
    def forward(self, x):
        return x @ x
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "square.xml"
    openvino.save_model(openvino.convert_model(torch.export.export(Square(), (torch.rand(4, 4),))), path)
    runs = [formats.open_run(path, threads=1) for _ in range(3)]
    for run in runs:
        run([torch.rand(4, 4)])
    os.kill(os.getpid(), signal.SIGUSR1)
    while runs:
        del runs[0], run
        run = None
        gc.collect()
        os.kill(os.getpid(), signal.SIGUSR1)
print(len(seen))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.split() == ["4"], (done.returncode, done.stdout, done.stderr[-2000:])


def test_openvino_telemetry_is_disabled() -> None:
    if find_spec("openvino") is None:
        pytest.skip("the export extra is not installed")
    # In a subprocess: the result depends on what is imported first.
    code = """
from oodgan.export import formats
formats.need("openvino", "a test")
from openvino.tools.ovc import convert_impl, telemetry_utils
print(telemetry_utils.tm.__name__, convert_impl.tm.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub"] * 2, done.stdout + done.stderr
