"""Feature-space inversion: residuals in generators, the feature encoder, its training, cache and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion import inverter as inverters
from oodgan.inversion.cache import CachedInverter
from oodgan.inversion.feature import FeatureEncoder, ResidualRefinement, compare, deviation, predict
from oodgan.inversion.feature_module import FeatureModule
from oodgan.inversion.inverter import FeatureInverter
from oodgan.inversion.protocol import Inverter
from oodgan.inversion.value import Inversion, concatenate
from oodgan.nn.resize import resize_area
from oodgan.weights import trained

RESOLUTION = 8
PIXELS = {"l2": {"_target_": "torch.nn.MSELoss", "weight": 1.0}}
ACTIVATIONS = {"activations": {"_target_": "oodgan.inversion.losses.ActivationLoss", "weight": 1.0}}


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


@pytest.fixture
def encoder(generator: StyleGAN2) -> FeatureEncoder:
    torch.manual_seed(0)
    return FeatureEncoder(generator.feature_channels[RESOLUTION], RESOLUTION, 32, (8, 8, 8), (1, 1, 1))


@pytest.fixture(scope="module")
def codes(generator: StyleGAN2) -> Tensor:
    return sample_codes(generator, 3, 0, 1.0)


@pytest.fixture(scope="module")
def photos(generator: StyleGAN2) -> Tensor:
    return generator.synthesis(sample_codes(generator, 3, 50, 1.0)).clamp(-1, 1)


class KnownCodes(nn.Module, Inverter):
    """An inverter that returns given codes."""

    name = "known"

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.codes, self.calls = codes, 0

    def invert(self, photos: Tensor) -> Inversion:
        self.calls += 1
        return Inversion(self.codes[: len(photos)])


def noise(generator: StyleGAN2, resolution: int, count: int, seed: int = 3) -> Tensor:
    shape = (count, generator.feature_channels[resolution], resolution, resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_empty_or_zero_residuals_change_nothing(generator: StyleGAN2, codes: Tensor) -> None:
    plain = generator.synthesis(codes)
    assert torch.equal(generator.synthesis(codes, residuals={}), plain)
    assert torch.equal(generator.synthesis(codes, residuals={8: torch.zeros_like(noise(generator, 8, 3))}), plain)


@pytest.mark.parametrize("resolution", [4, 8, 16, 32])
def test_a_residual_is_added_to_the_activations_of_its_resolution(generator, codes, resolution: int) -> None:
    residual = noise(generator, resolution, 3)
    before, after = generator.features(codes), generator.features(codes, residuals={resolution: residual})
    torch.testing.assert_close(after[resolution], before[resolution] + residual)
    for lower in (r for r in before if r < resolution):
        assert torch.equal(after[lower], before[lower])
    # The images of a batch are independent.
    whole = generator.synthesis(codes, residuals={resolution: residual})
    one = generator.synthesis(codes[1:2], residuals={resolution: residual[1:2]})
    torch.testing.assert_close(whole[1:2], one, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole, generator.synthesis(codes))


def test_residuals_of_a_wrong_resolution_or_shape_are_refused(generator: StyleGAN2, codes: Tensor) -> None:
    with pytest.raises(UserError, match="residual at 64 px: this generator has activations at 4, 8, 16, 32 px"):
        generator.synthesis(codes, residuals={64: torch.zeros(3, 16, 64, 64)})
    with pytest.raises(UserError, match=r"residual of shape \(2, 16, 8, 8\) at 8 px: \(3, 16, 8, 8\) expected"):
        generator.synthesis(codes, residuals={8: torch.zeros(2, 16, 8, 8)})


def test_compare_returns_the_gradient_of_the_squared_error(generator, codes, photos) -> None:
    residual = 0.1 * noise(generator, RESOLUTION, 3)
    image, gradient = compare(generator, codes, residual, photos)
    step = 1e-3 * noise(generator, RESOLUTION, 3, seed=4)

    def error(r: Tensor) -> Tensor:
        return (generator.synthesis(codes, residuals={RESOLUTION: r}) - photos).double().square().sum()

    torch.testing.assert_close(
        error(residual + step) - error(residual - step), 2 * (gradient * step).double().sum(), rtol=2e-2, atol=1e-3
    )
    assert image.shape == photos.shape and float(image.abs().max()) <= 1


def test_an_untrained_encoder_lowers_the_error_further_with_more_passes(generator, encoder, codes, photos) -> None:
    def error(passes: int, exact: int = 0) -> float:
        residual, _ = predict(encoder, generator, codes, photos, passes, exact)
        image = generator.synthesis(codes, residuals={RESOLUTION: residual}).clamp(-1, 1)
        return float((image - photos).square().mean())

    with torch.no_grad():
        start = float((generator.synthesis(codes).clamp(-1, 1) - photos).square().mean())
        once, often, exact = error(1), error(8), error(7, 1)
    assert often < once < start and often < 0.5 * start
    assert exact == pytest.approx(often, rel=1e-3)  # at the generator's resolution a preview is the full image


def test_residuals_are_scaled_by_the_standard_deviation_of_the_activations(generator, encoder, codes, photos) -> None:
    residual, base = predict(encoder, generator, codes, photos)
    torch.testing.assert_close(base, generator.features(codes)[RESOLUTION])
    assert deviation(base).shape == (3, 1, 1, 1)
    assert float((residual / deviation(base)).detach().square().mean().sqrt()) < 1


def test_training_lowers_the_error_and_gives_all_parameters_gradients(generator, encoder, codes, photos) -> None:
    module = FeatureModule(encoder, generator, KnownCodes(codes), PIXELS, passes=2)
    optimiser = torch.optim.Adam(encoder.parameters(), 1e-2)
    losses = []
    for seed in range(25):
        torch.manual_seed(seed)
        made = module.predictions(encoder, {"image": photos, "name": ["a", "b", "c"]})
        loss = torch.nn.functional.mse_loss(made["result"], made["target"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert all(p.grad is not None for p in encoder.parameters())
    assert not any("generator" in name for name, _ in module.named_parameters())


def test_training_on_full_images_compares_downscaled_images(generator, codes, photos) -> None:
    torch.manual_seed(0)
    encoder = FeatureEncoder(generator.feature_channels[RESOLUTION], RESOLUTION, 16, (8, 8, 8), (1, 1, 1))
    batch = {"image": photos}
    results = []
    for exact in (0, 1):
        module = FeatureModule(encoder, generator, KnownCodes(codes), PIXELS, passes=1, exact=exact).eval()
        known = module.predictions(encoder, batch)
        residuals = {RESOLUTION: predict(encoder, generator, codes, photos, 1, exact).residual}
        full = resize_area(generator.synthesis(codes, residuals=residuals), 16)
        preview = generator.synthesis(codes, size=16, residuals=residuals)
        torch.testing.assert_close(known["result"], full if exact else preview)
        torch.testing.assert_close(module(photos, codes), residuals[RESOLUTION])
        results.append(known["result"].detach())
    assert float((results[0] - results[1]).abs().max()) > 1e-3


def test_the_activation_error_is_computed_only_for_generated_samples(generator, encoder, codes, photos) -> None:
    module = FeatureModule(encoder, generator, KnownCodes(codes), ACTIVATIONS).eval()
    batch = {"image": photos, "has_w_plus": torch.tensor([True, False, False]), "w_plus": codes + 0.1}
    error = module.predictions(encoder, batch)["activation_error"]
    assert error[0].any() and not error[1:].any()
    assert not module.predictions(encoder, {"image": photos})["activation_error"].any()


def test_the_inverter_keeps_the_base_code(generator, encoder, codes, photos) -> None:
    inversion = FeatureInverter(generator, KnownCodes(codes), encoder, passes=2).invert(photos)
    assert torch.equal(inversion.w_plus, codes) and list(inversion.residuals) == [RESOLUTION]
    plain = Inversion(codes).image(generator)
    assert float((inversion.image(generator) - photos).square().mean()) < float((plain - photos).square().mean())
    with pytest.raises(UserError, match="passes=0"):
        FeatureInverter(generator, KnownCodes(codes), encoder, passes=0)


def test_optimising_the_residual_lowers_the_error_within_its_time_budget(
    generator, encoder, codes, photos, monkeypatch
) -> None:
    from oodgan.metrics import lpips

    # Without the perceptual loss, so that no network is fetched.
    monkeypatch.setattr(lpips, "lpips_distance", lambda *_: lambda a, b: torch.zeros(len(a)))
    residual, base = predict(encoder, generator, codes, photos)

    def error(r: Tensor) -> Tensor:
        return (generator.synthesis(codes, residuals={RESOLUTION: r}) - photos).square().mean((1, 2, 3)).detach()

    for exact in (False, True):
        refined = ResidualRefinement(steps=10, exact=exact, size=32)(generator, codes, residual, base, photos)
        assert bool((error(refined) < error(residual)).all())
    assert ResidualRefinement()(generator, codes, residual, base, photos) is residual
    quick = ResidualRefinement(seconds=1e-9, size=32)(generator, codes, residual, base, photos)
    assert torch.equal(quick, residual)  # the time budget ends after the first evaluation
    with pytest.raises(UserError, match=r"residual.refine.steps=-1"):
        ResidualRefinement(steps=-1)


def test_a_cached_inversion_with_residuals_equals_the_first(generator, encoder, codes, photos, tmp_path: Path) -> None:
    base = KnownCodes(codes)
    cached = CachedInverter(FeatureInverter(generator, base, encoder), "s", tmp_path, 2**24)
    first, again = cached.invert(photos), cached.invert(photos)
    assert base.calls == 1 and torch.equal(first.w_plus, again.w_plus)
    assert torch.equal(first.residuals[RESOLUTION], again.residuals[RESOLUTION])
    exact, _ = predict(encoder, generator, codes, photos, 3)
    torch.testing.assert_close(first.residuals[RESOLUTION], exact, atol=2e-3, rtol=2e-3)  # stored as fp16


def test_inversions_are_concatenated_and_sliced(generator: StyleGAN2, codes: Tensor) -> None:
    residual = noise(generator, 8, 3)
    whole = concatenate([Inversion(codes[:1]), Inversion(codes[1:], {8: residual[1:]})])
    assert len(whole) == 3 and not whole.residuals[8][0].any()
    assert torch.equal(whole[1:].residuals[8], residual[1:]) and torch.equal(whole[1:].w_plus, codes[1:])
    image = whole.image(generator)
    torch.testing.assert_close(image[:1], Inversion(codes[:1]).image(generator), atol=1e-5, rtol=1e-5)


def configured(tmp_path: Path, generator: StyleGAN2, encoder: FeatureEncoder, made_for: str | None = None) -> dict:
    architecture = {"_target_": "oodgan.inversion.feature.FeatureEncoder", "resolution": RESOLUTION, "size": 32}
    architecture |= {"widths": [8, 8, 8], "depths": [1, 1, 1]}
    metadata = {"part": "feature_encoder", "generator": made_for or generator.id, "encoder": architecture}
    trained.save(tmp_path / trained.FILE, encoder.state_dict(), **metadata)
    residual = {"encoder": architecture, "weights": str(tmp_path), "passes": 2, "exact": 0}
    return {
        "name": "x",
        "encoder": None,
        "refine": {"steps": 2, "losses": {"lpips": 0, "identity": 0}},
        "residual": residual,
    }


def test_a_feature_inverter_is_built_from_its_config(generator, encoder, photos, tmp_path: Path) -> None:
    built = inverters.build(configured(tmp_path, generator, encoder), generator)
    inversion = built.invert(photos[:1])
    again, _ = predict(encoder, generator, inversion.w_plus, photos[:1], 2)
    torch.testing.assert_close(inversion.residuals[RESOLUTION], again)


def test_weights_of_another_generator_or_shape_are_refused(generator, encoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made for generator other"):
        inverters.build(configured(tmp_path, generator, encoder, "other"), generator)
    cfg = configured(tmp_path, generator, encoder)
    cfg["residual"]["encoder"]["widths"] = [8, 8, 16]
    with pytest.raises(UserError, match="do not fit this feature encoder"):
        inverters.build(cfg, generator)
    cfg["residual"]["encoder"]["resolution"] = 128
    with pytest.raises(UserError, match="resolution=128: this generator has activations at 4, 8, 16, 32"):
        inverters.build(cfg, generator)
    cfg["residual"]["weights"] = None
    cfg["residual"]["encoder"]["resolution"] = RESOLUTION
    with pytest.raises(UserError, match="has no weights: train them with oodgan inversion"):
        inverters.build(cfg, generator)
