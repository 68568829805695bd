"""Directions imported from StyleCLIP: global directions in style space, and latent mappers."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from oodgan.directions.formats import ImportDiscovery
from oodgan.directions.unlabelled import style_maps
from oodgan.errors import UserError
from oodgan.generators.ops import ModulatedConv
from oodgan.generators.stylegan2 import StyleGAN2, tiny

DIM = 24  # size of the CLIP features; 512 in StyleCLIP's files


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny()


def is_convolution(layer: int) -> bool:
    return layer % 3 != 1  # the second style layer of each resolution belongs to ToRGB


def write_styleclip_files(folder: Path, generator: StyleGAN2, seed: int = 0) -> dict[str, object]:
    """Write `fs3.npy`, `S_mean_std` and a text difference as StyleCLIP does; returns the config entry for them."""
    rng = np.random.default_rng(seed)
    widths = [len(matrix) for _, matrix in style_maps(generator)]
    channels = sum(width for i, width in enumerate(widths) if is_convolution(i))
    relevance = rng.normal(size=(channels, DIM)).astype(np.float32)
    relevance /= np.linalg.norm(relevance, axis=1, keepdims=True)
    np.save(folder / "fs3.npy", relevance)
    np.save(folder / "text.npy", rng.normal(size=DIM).astype(np.float32))
    deviations = [rng.uniform(0.1, 1, width).astype(np.float32) for width in widths]
    (folder / "S_mean_std").write_bytes(pickle.dumps([[np.zeros_like(s) for s in deviations], deviations]))
    return {
        "path": str(folder / "fs3.npy"), "text": str(folder / "text.npy"), "std": str(folder / "S_mean_std"),
        "beta": 0.3, "scale": 2.0,
    }  # fmt: skip


def published_step(folder: Path, beta: float) -> list[np.ndarray]:
    """Returns the step in style space by the formula of StyleCLIP's `MapTS.py`, in numpy."""
    text = np.load(folder / "text.npy")
    change = np.load(folder / "fs3.npy") @ (text / np.linalg.norm(text))
    change[np.abs(change) < beta] = 0
    change /= np.abs(change).max()
    _, deviations = pickle.loads((folder / "S_mean_std").read_bytes())
    steps, start = [], 0
    for i, layer in enumerate(deviations):
        if is_convolution(i):
            steps.append(change[start : start + len(layer)] * layer)
            start += len(layer)
        else:
            steps.append(np.zeros_like(layer))
    return steps


def with_styles(generator: StyleGAN2, code: Tensor, steps: list[np.ndarray], alpha: float) -> Tensor:
    """Decode a code with steps added to its styles, as StyleCLIP edits."""
    convolutions = [m for m in generator.modules() if isinstance(m, ModulatedConv)]
    order: list[ModulatedConv] = []
    hooks = [c.modulation.register_forward_hook(lambda *_, c=c: order.append(c)) for c in convolutions]
    generator.synthesis(code)
    for hook in hooks:
        hook.remove()
    adding = [
        c.modulation.register_forward_hook(lambda module, inputs, style, s=step: style + alpha * torch.from_numpy(s))
        for c, step in zip(order, steps, strict=True)
    ]
    image = generator.synthesis(code)
    for hook in adding:
        hook.remove()
    return image


@torch.no_grad()
def test_a_global_direction_changes_the_styles_as_published(tmp_path: Path, generator: StyleGAN2) -> None:
    entry = write_styleclip_files(tmp_path, generator)
    bank = ImportDiscovery({"blond": entry}).discover(generator)
    code = torch.randn(1, generator.num_ws, 512)
    expected = with_styles(generator, code, published_step(tmp_path, 0.3), alpha=2.0)
    image = generator.synthesis(code + bank.vectors[0])
    torch.testing.assert_close(image, expected, atol=2e-4, rtol=1e-3)
    assert float((image - generator.synthesis(code)).abs().mean()) > 0.01
    assert bank.provenance["files"]["blond"] == {
        "path": "fs3.npy", "text": "text.npy", "std": "S_mean_std", "beta": 0.3, "scale": 2.0,
    }  # fmt: skip


def test_the_step_is_proportional_to_scale_and_a_beta_without_channels_is_refused(
    tmp_path: Path, generator: StyleGAN2
) -> None:
    entry = write_styleclip_files(tmp_path, generator)
    one, other = (ImportDiscovery({"a": {**entry, "scale": scale}}).discover(generator).vectors[0] for scale in (1, 3))
    torch.testing.assert_close(3 * one, other)
    negative = ImportDiscovery({"a": {**entry, "scale": 1, "sign": -1}}).discover(generator).vectors[0]
    torch.testing.assert_close(-one, negative)
    with pytest.raises(UserError, match=r"beta=0\.99: no channel is as relevant for this text; the largest is 0\."):
        ImportDiscovery({"a": {**entry, "beta": 0.99}}).discover(generator)


def test_a_step_that_codes_cannot_reproduce_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = StyleGAN2(16)  # styles as wide as a code: a code that feeds two style layers cannot reproduce both steps
    with caplog.at_level("WARNING"):
        ImportDiscovery({"blond": write_styleclip_files(tmp_path, wide)}).discover(wide)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "blond: its step in W+ reproduces" in line and 30 < int(line.split("reproduces")[1].split()[0]) < 95


def mapper_weights(levels: tuple[str, ...], seed: int = 0) -> dict[str, Tensor]:
    """Returns the tensors of a mapper under their public names."""
    torch.manual_seed(seed)
    return {
        f"mapper.{level}.mapping.{i}.{name}": torch.randn(512, 512) * 100 if name == "weight" else torch.randn(512) * 10
        for level in levels
        for i in range(1, 5)
        for name in ("weight", "bias")
    }


def mapper_forward(state: dict[str, Tensor], level: str, codes: Tensor) -> Tensor:
    """A mapper's forward pass: PixelNorm over the layers, then four equalised linear layers with leaky ReLU."""
    x = codes / (codes.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(1, 5):
        weight, bias = (state[f"mapper.{level}.mapping.{i}.{name}"] * 0.01 for name in ("weight", "bias"))
        x = torch.nn.functional.leaky_relu(x @ (weight / 512**0.5).T + bias, 0.2) * 2**0.5
    return x


@pytest.mark.parametrize("levels", [("mapping",), ("course_mapping", "medium_mapping"), ("fine_mapping",)])
def test_a_mapper_is_imported_as_its_mean_step(
    tmp_path: Path, levels: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    class Eighteen:
        id, num_ws, style_dim = "stylegan2-1024-0", 18, 512

    state, codes = mapper_weights(levels), torch.randn(5, 18, 512)
    decoder = {"decoder.input.input": torch.zeros(1)}
    torch.save({"state_dict": {**state, **decoder}, "opts": {"description": "curly hair"}}, tmp_path / "curly.pt")
    torch.save(codes, tmp_path / "test_faces.pt")
    rows = {"course_mapping": slice(0, 4), "medium_mapping": slice(4, 8), "fine_mapping": slice(8, 18)}
    expected = torch.zeros(18, 512)
    for level in levels:
        part = rows.get(level, slice(None))
        expected[part] = 0.1 * mapper_forward(state, level, codes[:, part]).mean(0)
    entry = {"path": str(tmp_path / "curly.pt"), "codes": str(tmp_path / "test_faces.pt")}
    with caplog.at_level("INFO"):
        vector = ImportDiscovery({"curly": entry}).discover(Eighteen()).vectors[0]  # type: ignore[arg-type]
    torch.testing.assert_close(vector, expected, atol=1e-4, rtol=1e-4)
    assert "direction curly: the mean step of a mapper; single steps have a mean cosine of 0." in caplog.text


def test_invalid_styleclip_files_are_one_line_errors(tmp_path: Path, generator: StyleGAN2) -> None:
    good = write_styleclip_files(tmp_path, generator)
    np.save(tmp_path / "narrow.npy", np.ones((7, DIM), np.float32))
    (tmp_path / "S").write_bytes(pickle.dumps(["names", 1]))
    torch.save({"state_dict": {"mapper.mapper_0.mapping.1.weight": torch.ones(2)}}, tmp_path / "stylespace.pt")
    torch.save(argparse.Namespace(a=1), tmp_path / "other.pt")
    torch.save(torch.randn(2, 18, 512), tmp_path / "codes.pt")
    codes = {"codes": str(tmp_path / "codes.pt")}
    cases: list[tuple[dict[str, object], str]] = [
        ({**good, "path": str(tmp_path / "narrow.npy")}, r"shape \(7, 24\): \(\d+, 24\) expected"),
        ({**good, "std": str(tmp_path / "S")}, r"S: it is not StyleCLIP's S_mean_std"),
        ({key: value for key, value in good.items() if key != "std"}, "needs std: the file S_mean_std"),
        ({"path": good["path"], "std": good["std"]}, r"option of direction 'a' \(needs text\): 'std'"),
        ({**good, "key": "x"}, "unknown option of direction 'a': 'key'"),
        ({**good, "text": str(tmp_path / "none.npy")}, "none.npy does not exist"),
        ({"path": str(tmp_path / "stylespace.pt"), **codes}, "mappers in style space cannot be imported"),
        ({"path": str(tmp_path / "other.pt"), **codes}, "other.pt: it holds no StyleCLIP mapper"),
        ({"path": str(tmp_path / "other.pt"), "codes": good["text"]}, r"codes of shape \(24,\)"),
    ]
    for entry, message in cases:
        with pytest.raises(UserError, match=message):
            ImportDiscovery({"a": entry}).discover(generator)
