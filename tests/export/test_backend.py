"""The editor gives the same results with OpenVINO as with PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from oodgan import Editor
from oodgan.errors import UserError
from oodgan.export import backend
from oodgan.inversion.feature import FeatureEncoder
from oodgan.inversion.inverter import FeatureInverter


def test_openvino_gives_the_same_edit_as_torch(
    editor: Editor, make_editor: Callable[..., Editor], draw_face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path))
    plain = editor.edit(draw_face(3, size=64), {"smile": 1.0}, aligned=True)
    wanted = dict(plain.tensors)
    fast = make_editor(synthesis=backend.synthesis(editor.generator))
    result = dict(fast.edit(draw_face(3, size=64), {"smile": 1.0}, aligned=True).tensors)
    assert all(torch.allclose(result[name], wanted[name], atol=1e-3) for name in wanted)
    assert not torch.equal(result["inverted"], wanted["inverted"])  # really computed by another runtime
    codes = torch.cat([plain.w_plus, plain.w_plus * 0.5])
    assert torch.allclose(fast.synthesis(codes), editor.generator.synthesis(codes), atol=1e-3)

    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.xml")}
    assert {path.stem for path in made} == {"synthesis"}
    again = backend.synthesis(make_editor().generator)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.xml")} == made, "converted twice"
    assert torch.equal(again(codes), fast.synthesis(codes))


def test_openvino_takes_feature_residuals_as_a_second_input(
    editor: Editor, draw_face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path))
    generator = editor.generator
    encoder = FeatureEncoder(generator.feature_channels[8], 8, 32, (8, 8, 8), (1, 1, 1))
    editor.inverter = FeatureInverter(generator, editor.inverter, encoder, passes=2)
    plain = editor.edit(draw_face(3, size=64), {"smile": 1.0}, aligned=True)
    wanted = dict(plain.tensors)
    assert plain.inversion.residuals[8].any()
    editor.synthesis = backend.synthesis(generator, editor.inverter.residual)
    assert {path.stem for path in tmp_path.rglob("*.xml")} == {"synthesis", "synthesis_residual"}
    editor.subjects.forget()
    result = dict(editor.edit(draw_face(3, size=64), {"smile": 1.0}, aligned=True).tensors)
    assert all(torch.allclose(result[name], wanted[name], atol=1e-3) for name in wanted)
    codes = plain.w_plus
    assert torch.allclose(editor.synthesis(codes), generator.synthesis(codes), atol=1e-3)
    with pytest.raises(UserError, match=r"no graph for residuals at \[8, 16\] px: use backend=torch"):
        editor.synthesis(codes, residuals={8: plain.inversion.residuals[8], 16: torch.zeros(1, 16, 16, 16)})


def test_changed_weights_are_converted_again(editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path))
    generator = editor.generator
    codes = generator.mean_w.expand(1, generator.num_ws, -1)
    first = backend.synthesis(generator)(codes)
    with torch.no_grad():
        generator.to_rgb1.bias += 1  # type: ignore[attr-defined]
    assert not torch.allclose(other := backend.synthesis(generator)(codes), first, atol=0.1)
    assert torch.allclose(other, generator.synthesis(codes), atol=1e-3)


def test_unavailable_backends_are_one_line_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'openvino'"):
        Editor.from_pretrained("tiny", backend="openvin")
    pytest.importorskip("openvino", reason="the export extra is not installed")
    with pytest.raises(UserError, match="runs on the CPU"):
        backend.check("openvino", "cuda")
    monkeypatch.setitem(sys.modules, "openvino", None)  # simulates a missing package
    with pytest.raises(UserError, match=r"backend=openvino needs .* pip install 'oodgan\[export\]'"):
        Editor.from_pretrained("tiny", backend="openvino")


@pytest.mark.network
@pytest.mark.slow
def test_openvino_and_torch_give_the_same_edit_with_the_shipped_weights(astronaut: Image.Image) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    results = []
    for name in backend.BACKENDS:
        editor = Editor.from_pretrained("mobile_ffhq", "inverter=fast", backend=name, code_cache=0)
        results.append(editor.edit(astronaut, {"smile": 1.0}).tensors["result"])
    assert float((results[0] - results[1]).abs().max()) < 0.02
