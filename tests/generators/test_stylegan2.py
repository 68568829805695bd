import math

import pytest
import torch
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators import ops
from oodgan.generators.stylegan2 import StyleGAN2, tiny


@pytest.fixture(scope="module")
def generator():
    return tiny(seed=3)


@pytest.fixture
def codes(generator):
    return generator.mapping(torch.randn(3, 512, generator=torch.Generator().manual_seed(1)))[:, None].repeat(1, 8, 1)


def naive_synthesis(generator, w_plus):
    """The paper's formulation: one demodulated weight per sample, zero insertion, 2-d filter."""

    def filter_up(x):
        kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
        return F.conv2d(F.pad(x, (1, 1, 1, 1)).transpose(0, 1), kernel[None, None]).transpose(0, 1)

    def convolve(layer, x, w):
        style = F.linear(w, layer.modulation.weight / math.sqrt(512), layer.modulation.bias)
        weight = layer.weight[0] * layer.scale * style.view(1, -1, 1, 1)
        if layer.demodulate:
            weight = weight / weight.square().sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
        if layer.up:
            return filter_up(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def styled(layer, x, w, noise):
        x = convolve(layer.conv, x, w) + layer.noise.weight * noise + layer.activate.bias.view(1, -1, 1, 1)
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    images = []
    for w in w_plus:
        noises = [generator.noises.get_buffer(f"noise_{i}") for i in range(generator.num_ws - 1)]
        x = styled(generator.conv1, generator.input.input, w[:1], noises[0])
        rgb = convolve(generator.to_rgb1.conv, x, w[1:2]) + generator.to_rgb1.bias
        for i, to_rgb in enumerate(generator.to_rgbs):
            x = styled(generator.convs[2 * i], x, w[None, 2 * i + 1], noises[2 * i + 1])
            x = styled(generator.convs[2 * i + 1], x, w[None, 2 * i + 2], noises[2 * i + 2])
            zeros = torch.zeros(1, 3, 2 * rgb.shape[2], 2 * rgb.shape[3])
            zeros[:, :, ::2, ::2] = rgb
            up = filter_up(F.pad(zeros, (1, 0, 1, 0)))
            rgb = convolve(to_rgb.conv, x, w[None, 2 * i + 3]) + to_rgb.bias + up
        images.append(rgb)
    return torch.cat(images)


def test_synthesis_equals_the_paper_formulation_in_every_path(generator, codes):
    expected = naive_synthesis(generator, codes).detach()
    with torch.no_grad():
        batch = generator.synthesis(codes)
        single = torch.cat([generator.synthesis(code[None]) for code in codes])
    with_graph = generator.synthesis(codes)
    for actual in (batch, single, with_graph.detach()):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert with_graph.requires_grad


def test_a_demodulated_layer_has_outputs_of_unit_variance():
    torch.manual_seed(0)
    layer = ops.ModulatedConv(64, 32, 3)
    out = layer(torch.randn(4, 64, 32, 32), torch.randn(4, 512))
    assert out.std().item() == pytest.approx(1.0, abs=0.05)


def test_a_smaller_size_returns_the_partial_sum_of_rgb_outputs(generator, codes):
    small = generator.synthesis(codes, size=16)
    assert small.shape == (3, 3, 16, 16)
    full = generator.synthesis(codes)
    last = generator.to_rgbs[-1]
    features = generator.features(codes)
    torch.testing.assert_close(full, last(features[32], codes[:, -1], small), rtol=1e-4, atol=1e-5)


def test_noise_modes_give_the_expected_images(generator, codes):
    const = generator.synthesis(codes)
    stored = [generator.noises.get_buffer(f"noise_{i}") for i in range(7)]
    torch.testing.assert_close(generator.synthesis(codes, noise=stored), const)
    assert torch.equal(generator.synthesis(codes), const)
    assert not torch.allclose(generator.synthesis(codes, noise="random"), const, atol=1e-3)
    assert not torch.allclose(generator.synthesis(codes, noise="none"), const, atol=1e-3)


def test_features_follow_the_protocol_and_fuse_changes_the_next_block(generator, codes):
    features = generator.features(codes)
    assert list(features) == [4, 8, 16, 32]
    for resolution, x in features.items():
        assert x.shape == (3, generator.feature_channels[resolution], resolution, resolution)
    seen = []

    def fuse(resolution, x):
        seen.append(resolution)
        return torch.zeros_like(x) if resolution == 8 else x

    fused = generator.features(codes, fuse)
    assert seen == [4, 8, 16, 32]
    assert torch.equal(fused[4], features[4])
    assert fused[8].abs().max() == 0
    assert not torch.allclose(fused[16], features[16])


def test_the_generator_id_depends_on_the_weights(generator):
    assert generator.id == tiny(seed=3).id
    assert generator.id != tiny(seed=4).id
    assert generator.id.startswith("stylegan2-32-") and len(generator.id.rsplit("-", 1)[1]) == 8


def test_mean_w_is_the_mean_of_the_mapping(generator):
    z = torch.randn(4096, 512, generator=torch.Generator().manual_seed(5))
    error = (generator.mapping(z).mean(0) - generator.mean_w).norm() / generator.mean_w.norm()
    assert error < 0.1


def test_channels_and_layers_have_the_published_numbers():
    expected = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
    generator = StyleGAN2(256, max_channels=512, n_mlp=1)
    assert generator.feature_channels == expected
    assert generator.num_ws == 14


def test_weights_in_the_public_layout_are_loaded_unchanged(generator, codes):
    state = {name: t for name, t in generator.state_dict().items() if name != "mean_w"}
    state["convs.0.conv.blur.kernel"] = ops.blur_kernel(4.0)
    other = tiny(seed=9)
    other.load_public(state, latent_avg=generator.mean_w.repeat(8, 1))
    assert other.id == generator.id
    torch.testing.assert_close(other.synthesis(codes), generator.synthesis(codes))
    with pytest.raises(UserError, match="another blur kernel"):
        other.load_public({**state, "convs.0.conv.blur.kernel": torch.ones(4, 4)})
    del state["conv1.conv.weight"]
    with pytest.raises(UserError, match=r"misses conv1\.conv\.weight"):
        other.load_public(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, w: g.synthesis(w[:, :5]), r"takes \(B, 8, 512\)"),
        (lambda g, w: g.synthesis(w, noise="loud"), "unknown noise 'loud'"),
        (lambda g, w: g.synthesis(w, size=24), "size 24"),
        (lambda g, w: g.synthesis(w, noise=[torch.zeros(1)]), "1 noise tensors"),
        (lambda g, w: StyleGAN2(48), "not a power of two"),
        (lambda g, w: StyleGAN2(32, weights="/nowhere.pt"), "no weights"),
    ],
)
def test_invalid_input_is_an_error(generator, codes, call, message):
    with pytest.raises(UserError, match=message):
        call(generator, codes)
