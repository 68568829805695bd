"""MobileStyleGAN in plain PyTorch: the same outputs as OpenVINO, and layers that match StyleGAN2's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators import preview
from oodgan.generators.mobile import MobileGenerator, inverse_haar
from oodgan.generators.openvino_ir import Graph
from oodgan.generators.protocol import Generator, sample_codes
from oodgan.weights import fetch
from oodgan.weights.registry import SHIPPED


def _made_for(shipped: str) -> str:
    with safe_open(SHIPPED / f"{shipped}.safetensors", "pt") as file:
        return json.loads(file.metadata()["generator"])


@pytest.fixture(scope="module")
def mobile() -> MobileGenerator:
    return MobileGenerator.from_pretrained()


def test_the_inverse_haar_transform_is_orthogonal_with_the_bands_in_order() -> None:
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64)
    y = inverse_haar(x)
    assert y.shape == (2, 3, 8, 10)
    assert torch.allclose(y.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    a, b, c, d = (y[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
    low, high = x[:, :3], x[:, 3:].unflatten(1, (3, 3))
    signs = {"low": a + b + c + d, 0: a + b - c - d, 1: a - b + c - d, 2: a - b - c + d}
    assert torch.allclose(signs["low"] / 2, low)
    assert all(torch.allclose(signs[k] / 2, high[:, :, k]) for k in range(3))


def test_a_damaged_graph_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable OpenVINO IR"):
        Graph(tmp_path / "absent.xml")
    (tmp_path / "net.xml").write_text("<net><layers>")
    with pytest.raises(UserError, match="not a readable OpenVINO IR"):
        Graph(tmp_path / "net.xml")


def test_the_error_for_wrong_codes_or_noise_names_them() -> None:
    empty = MobileGenerator()
    with pytest.raises(UserError, match=r"\(B, 16, 512\).*18-layer"):
        empty.synthesis(torch.zeros(1, 18, 512))
    with pytest.raises(UserError, match="const or none"):
        empty.synthesis(torch.zeros(1, 16, 512), noise="random")


@pytest.mark.network
def test_the_generator_id_does_not_depend_on_cpu_instructions(mobile: MobileGenerator) -> None:
    """Shipped weights refer to the generator's id; other CPU instructions round the mean code differently."""
    program = (
        "from oodgan.generators.mobile import MobileGenerator\n"
        "from oodgan.generators.protocol import mean_code\n"
        "generator = MobileGenerator.from_pretrained()\n"
        "print(generator.id, float((mean_code(generator.mapping) - generator.mean_w).abs().max()))"
    )
    older = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | older, capture_output=True, text=True, check=True
    ).stdout
    made_for, difference = output.split()
    assert made_for == mobile.id == _made_for("encoder_light")
    assert float(difference) < 1e-5


@pytest.mark.network
@torch.no_grad()
def test_outputs_equal_those_of_openvino(mobile: MobileGenerator) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is in the dev extra")
    core, folder = openvino.Core(), fetch("mobile_ffhq")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    z = torch.randn(2, 512, generator=torch.Generator().manual_seed(1))
    mapping = core.compile_model(core.read_model(folder / "MappingNetwork.xml"), "CPU", exact)
    w = torch.cat([torch.from_numpy(mapping(row[None].numpy())[0]) for row in z])
    assert (mobile.mapping(z) - w).abs().max() < 1e-4
    synthesis = core.compile_model(core.read_model(folder / "SynthesisNetwork.xml"), "CPU", exact)
    theirs = torch.from_numpy(synthesis(w[:1].numpy())[0])
    ours = mobile.synthesis(w[:1, None].repeat(1, 16, 1))
    assert ours.shape == theirs.shape == (1, 3, 1024, 1024)
    # Relative to the largest value. A double-precision run is closer to our output than to OpenVINO's.
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (ours - theirs).abs().mean() < 1e-5


@pytest.mark.network
@torch.no_grad()
def test_the_sixteen_layers_control_the_same_resolutions_as_stylegan2s(mobile: MobileGenerator) -> None:
    assert isinstance(mobile, Generator) and mobile.num_ws == 16
    code = sample_codes(mobile, 1, 1)
    before = mobile.features(code, last=64)
    assert {r: x.shape[1:] for r, x in before.items()} == {
        r: (mobile.feature_channels[r], r, r) for r in (4, 8, 16, 32, 64)
    }
    for layer in range(9):
        moved = code.clone()
        moved[:, layer] += 1
        after = mobile.features(moved, last=64)
        block = 4 << ((layer + 1) // 2)  # StyleGAN2: layer 0 at 4 px, then two convolutions for each resolution
        changed = {r: not torch.equal(before[r], after[r]) for r in before}
        assert changed == {r: r >= block for r in before}, layer


@pytest.mark.network
@torch.no_grad()
def test_sampled_codes_are_deterministic_and_the_network_is_frozen(mobile: MobileGenerator) -> None:
    assert mobile.id.startswith("mobile_ffhq-") and len(mobile.id) == len("mobile_ffhq-") + 8
    one, two, other = (sample_codes(mobile, 3, seed) for seed in (5, 5, 6))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(sample_codes(mobile, 3, 5, truncation=0.0), mobile.mean_w.expand(3, 16, 512))
    mixed = sample_codes(mobile, 8, 5, mixing=1.0)
    assert (mixed != mixed[:, :1]).any(2).any(1).all() and torch.equal(mixed[:, 0], sample_codes(mobile, 8, 5)[:, 0])
    assert not any(p.requires_grad for p in mobile.parameters()) and not mobile.training


@pytest.mark.network
@torch.no_grad()
def test_the_shipped_preview_exceeds_22_db_psnr_on_new_faces(mobile: MobileGenerator) -> None:
    assert "256" in mobile.previews
    codes = sample_codes(mobile, 4, 987_654)
    small = mobile.synthesis(codes, size=256)
    psnr = []
    for i in range(4):
        full = F.interpolate(mobile.synthesis(codes[i : i + 1]), (256, 256), mode="area")
        psnr.append(float(-10 * torch.log10((small[i : i + 1] - full).div(2).square().mean())))
    assert small.shape == (4, 3, 256, 256) and sum(psnr) / 4 > 22, psnr


def test_preview_heads_are_loaded_only_for_their_own_generator(tmp_path: Path) -> None:
    generator = MobileGenerator()
    generator.id = "mobile_ffhq-00000001"
    torch.manual_seed(0)
    head = preview.Preview(generator.feature_channels[32], preview.codes_of(generator, 64)).eval()
    preview.save_previews(generator, {"64": head}, {"64": 30.0}, tmp_path / "previews.safetensors")
    (loaded,) = preview.load_previews(generator, tmp_path / "previews.safetensors").values()
    x, codes = torch.randn(1, 512, 32, 32), torch.randn(1, preview.codes_of(generator, 64), 512)
    image: Tensor = loaded(x, codes)
    assert image.shape == (1, 3, 64, 64)
    assert torch.allclose(image, head(x, codes), atol=0.01 * float(head(x, codes).abs().max()) + 0.01)
    generator.id = "mobile_ffhq-00000002"
    assert preview.load_previews(generator, tmp_path / "previews.safetensors") == {}
    assert preview.load_previews(generator, tmp_path / "absent.safetensors") == {}


def test_training_a_preview_head_lowers_its_error() -> None:
    rng = torch.Generator().manual_seed(0)
    data = []
    for _ in range(12):
        hidden = torch.randn(16, 8, 8, generator=rng)
        image = F.interpolate(hidden[None, :3], scale_factor=2)[0] * 0.3
        data.append({"hidden": hidden.half(), "image": image.half(), "codes": torch.randn(3, 512, generator=rng)})
    torch.manual_seed(0)
    head = preview.Preview(16, 3)
    before = preview.psnr_of(head, data)
    losses = list(preview.fit_preview(head, data, 40))
    assert losses[-1] < 0.5 * losses[0] and preview.psnr_of(head, data) > before + 4
