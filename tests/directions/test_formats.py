"""Direction files of other projects, valid and invalid."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oodgan.directions.formats import ImportDiscovery, from_styles, read_direction
from oodgan.directions.unlabelled import style_maps
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import StyleGAN2, tiny


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny()


def _import(generator: StyleGAN2, entry: object, **more: object) -> torch.Tensor:
    return ImportDiscovery({"smile": entry}, **more).discover(generator).vectors[0]


def test_every_file_format_gives_the_same_direction(tmp_path: Path, generator: StyleGAN2):
    vector = torch.randn(8, 512)
    np.save(tmp_path / "a.npy", vector.numpy())
    np.savez(tmp_path / "a.npz", direction=vector.numpy())
    torch.save({"direction": vector, "other": torch.zeros(3)}, tmp_path / "a.pt")
    save_file({"direction": vector}, str(tmp_path / "a.safetensors"))
    for name in ("a.npy", "a.npz", "a.pt", "a.safetensors"):
        entry = {"path": str(tmp_path / name), "normalise": False, "scale": 1}
        entry |= {"key": "direction"} if name == "a.pt" else {}
        torch.testing.assert_close(_import(generator, entry), vector)


@pytest.mark.parametrize("shape", [(512,), (1, 512), (1, 1, 512)])
def test_a_direction_in_w_applies_to_all_layers(tmp_path: Path, generator: StyleGAN2, shape: tuple[int, ...]):
    vector = torch.randn(shape)
    np.save(tmp_path / "boundary.npy", vector.numpy())
    result = _import(generator, str(tmp_path / "boundary.npy"), scale=3.0)
    assert result.shape == (8, 512) and float(result.norm()) == pytest.approx(3.0, rel=1e-5)
    assert torch.equal(result[0], result[7])


def test_layers_sign_and_scale_are_applied(tmp_path: Path, generator: StyleGAN2):
    vector = torch.randn(8, 512)
    np.save(tmp_path / "d.npy", vector.numpy())
    whole = _import(generator, {"path": str(tmp_path / "d.npy"), "scale": 5})
    part = _import(generator, {"path": str(tmp_path / "d.npy"), "scale": 10, "sign": -1, "layers": "2-3"})
    torch.testing.assert_close(part[2:4], -2 * whole[2:4])
    assert not part[:2].any() and not part[4:].any()


def test_a_direction_of_18_layers_is_imported_for_a_generator_of_16(tmp_path: Path):
    class Sixteen:
        id, num_ws, style_dim = "mobile_ffhq-0", 16, 512

    vector = torch.randn(18, 512)
    np.save(tmp_path / "Smiling.npy", vector.numpy())
    result = ImportDiscovery(str(tmp_path)).discover(Sixteen())
    assert result.names == ["smiling"]
    torch.testing.assert_close(result.vectors[0], 20 * vector[:16] / vector[:16].norm())


def test_style_space_directions_are_converted_to_codes(tmp_path: Path, generator: StyleGAN2):
    step = torch.randn(8, 512)
    styles = [(matrix @ step[layer]) for layer, matrix in style_maps(generator)]
    torch.save(styles, tmp_path / "styles.pt")
    result = from_styles(read_direction(tmp_path / "styles.pt"), generator)
    for layer, matrix in style_maps(generator):
        torch.testing.assert_close(matrix @ result[layer], matrix @ step[layer], atol=1e-3, rtol=1e-3)
    with pytest.raises(UserError, match="style-space direction of widths"):
        from_styles(styles[:-1], generator)


def test_a_malicious_pickle_is_refused_without_running_it(tmp_path: Path, generator: StyleGAN2):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    array = np.empty(1, dtype=object)
    array[0] = Evil()
    np.save(tmp_path / "evil.npy", array, allow_pickle=True)
    for name in ("evil.pt", "evil.npy"):
        with pytest.raises(UserError, match=name):
            _import(generator, str(tmp_path / name))
    assert not marker.exists()


def test_invalid_directions_and_options_are_errors(tmp_path: Path, generator: StyleGAN2):
    np.save(tmp_path / "wide.npy", np.ones((18, 512), np.float32))
    np.save(tmp_path / "zero.npy", np.zeros((8, 512), np.float32))
    torch.save({"a": torch.ones(512), "b": torch.ones(512)}, tmp_path / "two.pt")
    (tmp_path / "text.npy").write_text("hello")
    cases = [
        (str(tmp_path / "wide.npy"), r"has shape \(18, 512\)"),
        (str(tmp_path / "zero.npy"), "zero or not finite"),
        (str(tmp_path / "two.pt"), "several tensors; give key: one of a, b"),
        ({"path": str(tmp_path / "two.pt"), "key": "c"}, "unknown key"),
        (str(tmp_path / "text.npy"), "looks like text; expected a tensor"),
        (str(tmp_path / "missing.npy"), "missing.npy does not exist"),
        (str(tmp_path / "x.onnx"), "x.onnx does not exist"),
        ({"path": "a.npy", "layer": 3}, "did you mean 'layers'"),
        ({"layers": "3"}, "has no path"),
    ]
    for entry, message in cases:
        with pytest.raises(UserError, match=message):
            _import(generator, entry)
    with pytest.raises(UserError, match=r"needs directions\.files"):
        ImportDiscovery(None)


def test_directions_in_any_container_and_dtype_are_read(tmp_path: Path, generator: StyleGAN2):
    """Tensors with requires_grad, of any dtype and layout, in dictionaries and pickles."""
    vector = torch.randn(8, 512)
    half = vector.bfloat16()
    torch.save(vector.clone().requires_grad_(True), tmp_path / "grad.pt")
    torch.save(torch.nn.Parameter(vector), tmp_path / "parameter.pt")
    torch.save({"face.png": {"latent": vector, "args": "text"}}, tmp_path / "nested.pt")
    torch.save(vector.to_sparse(), tmp_path / "sparse.pt")
    torch.save(half, tmp_path / "half.pt")
    save_file({"direction": half}, str(tmp_path / "half.safetensors"))
    (tmp_path / "array.pkl").write_bytes(pickle.dumps(vector.numpy()))
    for path in sorted(tmp_path.iterdir()):
        result = _import(generator, {"path": str(path), "normalise": False, "scale": 1})
        torch.testing.assert_close(result, half.float() if path.stem == "half" else vector)


def test_files_that_are_not_directions_are_one_line_errors(tmp_path: Path, generator: StyleGAN2):
    torch.save({"a": {"x": torch.ones(512), "y": torch.ones(512)}}, tmp_path / "several.pt")
    torch.save(["text"], tmp_path / "text.pt")
    torch.save(torch.ones(512, dtype=torch.complex64), tmp_path / "complex.pt")
    torch.save(torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6)), tmp_path / "huge.pt")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    np.save(tmp_path / "strings.npy", np.array(["a"] * 512))
    cases = {
        "several.pt": r"give key: one of a\.x, a\.y", "text.pt": "no numbers", "complex.pt": "complex numbers",
        "huge.pt": "no direction is as large", "page.pt": "a web page", "strings.npy": "no numbers",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            _import(generator, str(tmp_path / name))
        assert name in str(error.value) and "weights_only" not in str(error.value)
    result = read_direction(tmp_path / "several.pt", "a.y")
    assert isinstance(result, torch.Tensor) and result.shape == (512,)


def test_skipped_files_of_a_folder_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    np.save(tmp_path / "Smile.npy", np.ones(512))
    (tmp_path / "README.txt").write_text("about")
    with caplog.at_level("WARNING"):
        assert list(ImportDiscovery(str(tmp_path)).files) == ["smile"]
    assert "1 other file(s)" in caplog.text and "README.txt" in caplog.text
    torch.save(torch.ones(512), tmp_path / "smile.pt")
    with pytest.raises(UserError, match=r"Smile\.npy and .*smile\.pt would both be the direction 'smile'"):
        ImportDiscovery(str(tmp_path))
