from types import SimpleNamespace

import pytest
import torch
from torch import nn

from oodgan.deghost.network import Deghoster, DenseEncoder
from oodgan.errors import UserError
from oodgan.generators import strips
from oodgan.generators.stylegan2 import tiny

SMALL = {"in_size": 16, "width": 8, "growth": 4, "blocks": 1, "max_channels": 16, "head": 8}


def coarse(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Deghoster(tiny(), **SMALL)


class WaveletLike(nn.Module):
    """A generator of the protocol that has no activations at its last resolution, with 6 codes."""

    id = "wavelet-32-00000000"
    resolution, num_ws, style_dim = 32, 6, 512

    def __init__(self):
        super().__init__()
        self.feature_channels = {4: 12, 8: 10, 16: 8}
        self.layers = nn.ModuleList(nn.Conv2d(n_in, n_out, 3, padding=1) for n_in, n_out in ((12, 10), (10, 8)))
        self.constant = nn.Parameter(torch.randn(1, 12, 4, 4))
        self.register_buffer("mean_w", torch.ones(512))

    def levels(self, w_plus, fuse=None, last=None):
        x = fuse(4, self.constant * w_plus.mean((1, 2)).view(-1, 1, 1, 1))
        yield 4, x
        for size, layer in zip((8, 16), self.layers, strict=True):
            if last and size > last:
                return
            x = fuse(size, layer(nn.functional.interpolate(x, scale_factor=2)))
            yield size, x


@pytest.mark.parametrize(("in_size", "out_size"), [(8, 32), (16, 32), (8, 16)])
def test_the_output_has_the_configured_size(in_size, out_size):
    network = Deghoster(tiny(), **{**SMALL, "in_size": in_size, "out_size": out_size})
    assert network(coarse(size=in_size)).shape == (2, 3, out_size, out_size)


@pytest.mark.parametrize("in_size", [8, 16])
def test_the_deghoster_accepts_any_generator_of_the_protocol(in_size):
    network = Deghoster(WaveletLike(), **{**SMALL, "in_size": in_size})
    codes, _ = network.encode(coarse(size=in_size))
    assert codes.shape == (2, 6, 512)
    assert network(coarse(size=in_size)).shape == (2, 3, 32, 32)


def test_the_generator_is_frozen_and_not_stored(network):
    network.train()
    assert not network.generator.training
    network(coarse()).square().mean().backward()
    assert all(p.grad is None for p in network.generator.parameters())
    assert not any(name.startswith("generator.") for name in network.trained_state())
    # Every stored parameter is used: an unused branch would have no gradient.
    for name, parameter in network.named_parameters():
        assert name.startswith("generator.") or parameter.grad is not None, name


def test_the_result_depends_on_the_prior_and_on_the_coarse_image(network):
    network.eval()
    with torch.no_grad():
        before = network(coarse())
        other = coarse().flip(3)
        assert not torch.allclose(network(other), before, atol=1e-3)
        bias = network.generator.convs[4].activate.bias
        kept = bias.clone()
        bias += 1
        assert not torch.allclose(network(coarse()), before, atol=1e-4)
        bias.copy_(kept)


def test_results_are_the_same_with_and_without_gradients(network):
    network.eval()
    with torch.no_grad():
        fast = network(coarse())
        alone = torch.cat([network(image[None]) for image in coarse()])
    torch.testing.assert_close(fast, network(coarse()).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dense_blocks_by_tiles_give_the_same_result():
    torch.manual_seed(0)
    encoder = DenseEncoder(width=8, growth=4, blocks=2, out=8).to(memory_format=torch.channels_last)
    image = coarse(2, 64)
    x = encoder.conv_first(image)
    expected = encoder.body(x)
    torch.testing.assert_close(encoder._tiled(x), expected, rtol=0, atol=1e-5)
    with torch.enable_grad():
        trained = encoder(image)
    torch.testing.assert_close(encoder(image), trained.detach(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_computing_in_strips_gives_the_same_result(monkeypatch):
    torch.manual_seed(0)
    network = Deghoster(tiny(resolution=64), **SMALL).eval()
    at_once = network(coarse())
    monkeypatch.setattr(strips, "PIXELS", 4 * 32)
    torch.testing.assert_close(network(coarse()), at_once, rtol=1e-5, atol=1e-5)
    # A generator that cannot compute its finest activations in strips.
    other = SimpleNamespace(levels=network.generator.levels, mean_w=network.generator.mean_w, strips=False)
    del network.generator
    network.generator = other
    torch.testing.assert_close(network(coarse()), at_once, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_published_network_reads_only_the_coarse_image_at_its_own_size(network):
    large = coarse(size=64)
    small = torch.nn.functional.interpolate(large, (16, 16), mode="area")
    torch.testing.assert_close(network(large, large, -large), network(small))
    mask = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2)
    assert network.share(mask).flatten().tolist() == [0.0, 0.5, 1.0, 1.0]


def test_codes_can_be_predicted_relative_to_the_mean():
    torch.manual_seed(0)
    generator = tiny()
    around = Deghoster(generator, **SMALL, around_mean=True)
    absolute = Deghoster(generator, **SMALL)
    absolute.load_trained(around.trained_state())
    difference = around.encode(coarse())[0] - absolute.encode(coarse())[0]
    torch.testing.assert_close(difference, generator.mean_w.expand(2, 8, 512), rtol=1e-4, atol=1e-5)


def test_stored_tensors_are_loaded_into_an_equal_network(network):
    other = Deghoster(tiny(), **SMALL).eval()
    other.load_trained(network.trained_state())
    network.eval()
    torch.testing.assert_close(other(coarse()), network(coarse()))


def test_invalid_sizes_and_weights_are_errors(network):
    for sizes in ({"in_size": 32}, {"in_size": 12}, {"in_size": 16, "out_size": 64}, {"in_size": 16, "out_size": 16}):
        with pytest.raises(UserError, match="powers of two"):
            Deghoster(tiny(), **{**SMALL, **sizes})
    with pytest.raises(UserError, match=r"reads \(B, 3, 16, 16\)"):
        network.encode(coarse(size=32))
    with pytest.raises(UserError, match="not of this deghoster"):
        network.load_trained({"decoder.0.upsample_conv.weight": torch.zeros(1)})
