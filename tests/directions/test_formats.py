"""Files of other projects, good and bad."""

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


def test_every_format_gives_the_same(tmp_path: Path, generator: StyleGAN2):
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
def test_a_boundary_of_w_moves_all_layers(tmp_path: Path, generator: StyleGAN2, shape: tuple[int, ...]):
    vector = torch.randn(shape)
    np.save(tmp_path / "boundary.npy", vector.numpy())
    found = _import(generator, str(tmp_path / "boundary.npy"), scale=3.0)
    assert found.shape == (8, 512) and float(found.norm()) == pytest.approx(3.0, rel=1e-5)
    assert torch.equal(found[0], found[7])


def test_layers_sign_and_scale(tmp_path: Path, generator: StyleGAN2):
    vector = torch.randn(8, 512)
    np.save(tmp_path / "d.npy", vector.numpy())
    whole = _import(generator, {"path": str(tmp_path / "d.npy"), "scale": 5})
    part = _import(generator, {"path": str(tmp_path / "d.npy"), "scale": 10, "sign": -1, "layers": "2-3"})
    torch.testing.assert_close(part[2:4], -2 * whole[2:4])
    assert not part[:2].any() and not part[4:].any()


def test_eighteen_layers_on_sixteen(tmp_path: Path):
    class Sixteen:
        id, num_ws, style_dim = "mobile_ffhq-0", 16, 512

    vector = torch.randn(18, 512)
    np.save(tmp_path / "Smiling.npy", vector.numpy())
    found = ImportDiscovery(str(tmp_path)).discover(Sixteen())
    assert found.names == ["smiling"]
    torch.testing.assert_close(found.vectors[0], 20 * vector[:16] / vector[:16].norm())


def test_style_space_directions_become_codes(tmp_path: Path, generator: StyleGAN2):
    step = torch.randn(8, 512)
    styles = [(matrix @ step[layer]) for layer, matrix in style_maps(generator)]
    torch.save(styles, tmp_path / "styles.pt")
    found = from_styles(read_direction(tmp_path / "styles.pt"), generator)
    for layer, matrix in style_maps(generator):
        torch.testing.assert_close(matrix @ found[layer], matrix @ step[layer], atol=1e-3, rtol=1e-3)
    with pytest.raises(UserError, match="style-space direction of widths"):
        from_styles(styles[:-1], generator)


def test_a_hostile_pickle_is_refused_unread(tmp_path: Path, generator: StyleGAN2):
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


def test_mistakes(tmp_path: Path, generator: StyleGAN2):
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
        ({"layers": "3"}, "names no path"),
    ]
    for entry, told in cases:
        with pytest.raises(UserError, match=told):
            _import(generator, entry)
    with pytest.raises(UserError, match=r"needs directions\.files"):
        ImportDiscovery(None)
