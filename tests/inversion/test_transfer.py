"""The transfer of residuals to an edited image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion.transfer import Fade, Learned, Whole, build, follow
from oodgan.inversion.transfer_network import TransferNetwork
from oodgan.inversion.value import Inversion


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


@pytest.fixture
def inversion(generator: StyleGAN2) -> Inversion:
    residual = torch.randn(2, generator.feature_channels[8], 8, 8, generator=torch.Generator().manual_seed(1))
    return Inversion(sample_codes(generator, 2, 0, 1.0), {8: residual})


def edited(inversion: Inversion, size: float = 1.0) -> Tensor:
    step = torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(2))
    return inversion.w_plus + size * step


def test_the_whole_transfer_keeps_residuals_unchanged(generator: StyleGAN2, inversion: Inversion) -> None:
    after = Whole()(generator, inversion, edited(inversion))
    assert torch.equal(after.w_plus, edited(inversion)) and after.residuals[8] is inversion.residuals[8]


def test_without_an_edit_residuals_are_unchanged(generator: StyleGAN2, inversion: Inversion) -> None:
    after = Fade()(generator, inversion, inversion.w_plus)
    assert torch.equal(after.residuals[8], inversion.residuals[8])
    assert Fade()(generator, Inversion(inversion.w_plus), edited(inversion)).residuals == {}


def test_residuals_fade_where_the_edit_changes_activations(generator: StyleGAN2, inversion: Inversion) -> None:
    codes = edited(inversion)
    after = Fade(quantile=0.9)(generator, inversion, codes)
    kept = (after.residuals[8] / inversion.residuals[8])[:, 0]
    change = (generator.features(codes)[8] - generator.features(inversion.w_plus)[8]).abs().mean(1, keepdim=True)
    smooth = torch.nn.functional.avg_pool2d(change, 3, 1, 1, count_include_pad=False)[:, 0]
    for keep, moved in zip(kept, smooth, strict=True):
        assert float(keep[moved >= moved.flatten().quantile(0.95)].max()) < 1e-5
        assert float(keep[moved <= moved.flatten().quantile(0.02)].min()) > 0.3
        order = moved.flatten().argsort()
        assert bool((keep.flatten()[order].diff() <= 1e-5).all())


def test_strength_interpolates_between_residual_and_faded_residual(generator: StyleGAN2, inversion: Inversion) -> None:
    codes = edited(inversion)
    full, half = (Fade(strength=s)(generator, inversion, codes).residuals[8] for s in (1.0, 0.5))
    torch.testing.assert_close(half, (inversion.residuals[8] + full) / 2)


@pytest.mark.parametrize("keywords", [{"quantile": 0.0}, {"floor": 1.0}, {"strength": 1.5}])
def test_invalid_settings_are_refused(keywords: dict[str, float]) -> None:
    with pytest.raises(UserError, match="transfer: quantile="):
        Fade(**keywords)


def test_a_transfer_is_built_from_its_target(generator: StyleGAN2) -> None:
    made = build({"_target_": "oodgan.inversion.transfer.Fade", "quantile": 0.5}, generator)
    assert isinstance(made, Fade) and made.quantile == 0.5 and isinstance(build(None, generator), Whole)


def trained(generator: StyleGAN2, seed: int = 3) -> TransferNetwork:
    """A network whose last layers are not zero."""
    torch.manual_seed(seed)
    network = TransferNetwork(generator.feature_channels[8], 8, (8, 8, 8), depth=1)
    for layer in (network.gate, network.addition):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return network


def test_an_untrained_network_does_not_change_residuals(generator: StyleGAN2, inversion: Inversion) -> None:
    learned = Learned(TransferNetwork(generator.feature_channels[8], 8, (8, 8, 8), depth=1))
    after = learned(generator, inversion, edited(inversion))
    torch.testing.assert_close(after.residuals[8], inversion.residuals[8])


def test_a_network_changes_residuals_only_where_the_edit_changes_activations(generator: StyleGAN2) -> None:
    network = trained(generator)
    before, residual = torch.randn(2, 1, generator.feature_channels[8], 8, 8).unbind()
    after = before.clone()
    after[..., :4] += 1  # the left half
    followed = follow(network, residual, before, after)
    untouched = slice(5, 8)  # the change is averaged over 3 x 3 positions
    torch.testing.assert_close(followed[..., untouched], residual[..., untouched], rtol=0, atol=1e-6)
    assert float((followed - residual)[..., :3].abs().mean()) > 0.01


def test_a_learned_transfer_is_equivariant_to_the_scale_of_the_activations(
    generator: StyleGAN2, inversion: Inversion
) -> None:
    network, codes = trained(generator), edited(inversion)
    once = Learned(network)(generator, inversion, codes)
    assert torch.equal(once.w_plus, codes) and not torch.allclose(once.residuals[8], inversion.residuals[8])
    before, after = (generator.features(w)[8] for w in (inversion.w_plus, codes))
    twice = follow(network, 2 * inversion.residuals[8], 2 * before, 2 * after)
    torch.testing.assert_close(twice, 2 * once.residuals[8], rtol=1e-3, atol=1e-4)


def test_a_fraction_of_the_learned_change_can_be_applied(generator: StyleGAN2, inversion: Inversion) -> None:
    network, codes = trained(generator), edited(inversion)
    full, half = (Learned(network, strength)(generator, inversion, codes).residuals[8] for strength in (1.0, 0.5))
    torch.testing.assert_close(half, (inversion.residuals[8] + full) / 2)
    with pytest.raises(UserError, match=r"transfer.strength=0: above 0 and at most 1"):
        Learned(network, 0)


def test_a_learned_transfer_changes_nothing_without_residuals_or_edit(
    generator: StyleGAN2, inversion: Inversion
) -> None:
    learned = Learned(trained(generator))
    assert learned(generator, inversion, inversion.w_plus).residuals[8] is inversion.residuals[8]
    assert learned(generator, Inversion(inversion.w_plus), edited(inversion)).residuals == {}


def test_weights_are_loaded_only_for_inverters_with_residuals(generator: StyleGAN2) -> None:
    cfg = {
        "name": "learned",
        "network": {"_target_": "oodgan.inversion.transfer_network.TransferNetwork", "resolution": 8},
        "weights": "no_such_weights",
    }
    assert isinstance(build(cfg, generator, residual=False), Whole)
    with pytest.raises(UserError, match="no_such_weights"):
        build(cfg, generator)
