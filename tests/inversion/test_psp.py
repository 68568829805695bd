import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.stylegan2 import tiny
from oodgan.inversion.e4e import E4E, Encoder4Editing, progressive
from oodgan.inversion.psp import PSP, GradualStyleEncoder
from oodgan.nn.irse import SqueezeExcite, Unit

WS = 8


def encoder_with_weights(kind, state):
    """Returns an encoder of class `kind` that shares `state`, without initialising weights."""
    with torch.device("meta"):
        encoder = kind(WS).eval()
    encoder.load_state_dict(state, assign=True)
    return encoder


@pytest.fixture(scope="module")
def photo():
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def psp():
    torch.manual_seed(0)
    return GradualStyleEncoder(WS).eval()


@pytest.fixture(scope="module")
def codes(psp, photo):
    with torch.no_grad():
        return psp(photo)


def test_the_ir_se_unit_equals_its_formula():
    torch.manual_seed(0)
    unit = Unit(16, 32, 2).eval()
    x = torch.randn(2, 16, 8, 8)
    norm, first, slope, second, last, gate = unit.res_layer
    h = F.conv2d(norm(x), first.weight, padding=1)
    h = torch.where(h > 0, h, h * slope.weight.view(1, -1, 1, 1))
    h = last(F.conv2d(h, second.weight, stride=2, padding=1))
    squeezed = F.relu(h.mean((2, 3)) @ gate.fc1.weight[:, :, 0, 0].T) @ gate.fc2.weight[:, :, 0, 0].T
    expected = h * torch.sigmoid(squeezed)[:, :, None, None] + unit.shortcut_layer(x)
    torch.testing.assert_close(unit(x), expected)
    assert isinstance(Unit(16, 16, 2).shortcut_layer, nn.MaxPool2d)
    assert SqueezeExcite(32).fc1.weight.shape == (2, 32, 1, 1)


@torch.no_grad()
def test_each_style_reads_the_feature_level_of_its_layer(psp, photo):
    fine, middle, coarse = psp.levels(photo)
    assert [tuple(x.shape[1:]) for x in (fine, middle, coarse)] == [(128, 64, 64), (256, 32, 32), (512, 16, 16)]
    assert [psp.spatial(i) for i in range(WS)] == [16] * 3 + [32] * 4 + [64]
    depth = [sum(isinstance(layer, nn.Conv2d) for layer in style.convs) for style in psp.styles]
    assert depth == [int(math.log2(psp.spatial(i))) for i in range(WS)]
    torch.testing.assert_close(psp(photo)[:, 2], psp.styles[2](coarse))


@torch.no_grad()
def test_e4e_codes_are_the_first_style_plus_offsets(psp, codes, photo):
    e4e = encoder_with_weights(Encoder4Editing, psp.state_dict())
    actual = e4e(photo)
    torch.testing.assert_close(actual[:, 0], codes[:, 0])
    torch.testing.assert_close(actual[:, 1:], codes[:, :1] + codes[:, 1:])


def test_progressive_stages_add_one_offset_after_the_other():
    styles = [torch.full((2, 512), float(i + 1)) for i in range(4)]
    assert progressive(styles, 0)[0, :, 0].tolist() == [1, 1, 1, 1]
    assert progressive(styles, 2)[0, :, 0].tolist() == [1, 3, 4, 1]
    assert progressive(styles, 4)[0, :, 0].tolist() == [1, 3, 4, 5]


@torch.no_grad()
def test_psp_adds_the_mean_resizes_photos_and_drops_surplus_codes(psp, codes, photo):
    with torch.device("meta"):
        inverter = PSP(WS)
    inverter.encoder = psp
    inverter.latent_avg = torch.full((WS, 512), 2.0)
    torch.testing.assert_close(inverter(photo), codes + 2)
    big = photo.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(inverter(big), codes + 2, rtol=1e-3, atol=1e-4)
    assert inverter(photo[:, :, :100, :100]).shape == (1, WS, 512)
    small = tiny(resolution=16)
    inverter._generator = [small]
    assert torch.equal(inverter(photo), (codes + 2)[:, : small.num_ws])
    assert not any("_generator" in name for name in inverter.state_dict())


class Difference(nn.Module):
    """Replaces a ReStyle encoder: its codes are the mean difference of photo and inversion."""

    def forward(self, x):
        assert x.shape[1:] == (6, 256, 256)
        return (x[:, :3] - x[:, 3:]).mean((1, 2, 3)).view(-1, 1, 1).expand(-1, WS, 512)


@torch.no_grad()
def test_restyle_refines_its_own_inversion_in_each_iteration(photo):
    generator = tiny()
    with torch.device("meta"):
        inverter = E4E(WS, "restyle_e4e", generator=generator, iterations=2)
    inverter.encoder, inverter.latent_avg = Difference(), generator.mean_w.repeat(WS, 1)

    def resized_image(codes):
        return F.interpolate(generator.synthesis(codes), size=(256, 256), mode="bilinear", align_corners=False)

    first = inverter.latent_avg[None] + (photo - resized_image(inverter.latent_avg[None])).mean()
    second = first + (photo - resized_image(first)).mean()
    torch.testing.assert_close(inverter(photo), second, rtol=1e-3, atol=1e-4)
    inverter._generator = [None]
    with pytest.raises(UserError, match="pass it the generator"):
        inverter(photo)


@pytest.mark.parametrize(
    ("variant", "channels"), [("psp_w", 3), ("psp_wplus", 3), ("restyle_psp", 6), ("restyle_psp_resnet", 6)]
)
@torch.no_grad()
def test_every_encoder_variant_returns_finite_codes(variant, channels, photo):
    torch.manual_seed(0)
    encoder = PSP(2, variant).encoder
    codes = encoder(photo.repeat(1, channels // 3, 1, 1))
    assert codes.shape == (1, 2, 512)
    assert torch.isfinite(codes).all()
    assert torch.equal(codes[:, 0], codes[:, 1]) == (variant == "psp_w")


def test_restyle_on_resnet34_has_the_public_layout():
    with torch.device("meta"):
        state = E4E(2, "restyle_e4e_resnet").encoder.state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    assert shapes["conv1.weight"] == (64, 6, 7, 7)
    assert shapes["relu.weight"] == (64,)  # a PReLU instead of torchvision's ReLU
    assert shapes["body.3.downsample.0.weight"] == (128, 64, 1, 1)  # all blocks in one list: 3 + 4 + 6 + 3
    assert shapes["body.15.bn2.running_var"] == (512,)
    assert shapes["styles.1.convs.6.weight"] == (512, 512, 3, 3)
    assert {name.split(".")[0] for name in shapes} == {"conv1", "bn1", "relu", "body", "styles"}
    assert not any(name.startswith(("body.16.", "styles.2.")) for name in shapes)


def test_unknown_variants_and_missing_or_damaged_weights_are_errors(tmp_path):
    with pytest.raises(UserError, match="did you mean 'psp_w'"):
        PSP(2, "psp_x")
    with pytest.raises(UserError, match="no weights"):
        PSP(weights=tmp_path / "psp_ffhq_encode.pt")
    (tmp_path / "weights.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match=r"weights file .* is damaged or has another format"):
        PSP(weights=tmp_path)
