"""Optimisation of codes: lowers each photo's loss, stays near the start, and keeps its time budget."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion.inverter import EncoderInverter, OptimisationInverter, build
from oodgan.inversion.protocol import Encoder
from oodgan.inversion.refine import Refinement

PIXELS = {"l2": 1.0, "lpips": 0.0, "identity": 0.0, "prior": 0.0}


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


@pytest.fixture(scope="module")
def photos(generator: StyleGAN2) -> Tensor:
    return generator.synthesis(sample_codes(generator, 3, 5, 1.0))


@pytest.fixture(scope="module")
def start(generator: StyleGAN2) -> Tensor:
    return sample_codes(generator, 3, 6, 0.5)


def errors(generator: StyleGAN2, codes: Tensor, photos: Tensor) -> Tensor:
    return F.mse_loss(generator.synthesis(codes), photos, reduction="none").mean((1, 2, 3))


def test_the_loss_of_every_photo_decreases(generator: StyleGAN2, start: Tensor, photos: Tensor) -> None:
    refined = Refinement(steps=12, lr=0.1, losses=PIXELS)(generator, start, photos)
    assert refined.shape == start.shape and not refined.requires_grad
    assert (errors(generator, refined, photos) < 0.8 * errors(generator, start, photos)).all()


def test_zero_steps_change_nothing(generator: StyleGAN2, start: Tensor, photos: Tensor) -> None:
    assert torch.equal(Refinement(steps=0, losses=PIXELS)(generator, start, photos), start)


def test_one_step_lowers_the_error(generator: StyleGAN2, start: Tensor, photos: Tensor) -> None:
    refined = Refinement(steps=1, lr=0.02, losses=PIXELS)(generator, start, photos)
    assert (errors(generator, refined, photos) < errors(generator, start, photos)).all()


def test_each_photo_keeps_its_best_code_even_with_a_huge_learning_rate(
    generator: StyleGAN2, start: Tensor, photos: Tensor
) -> None:
    refined = Refinement(steps=6, lr=50.0, losses=PIXELS)(generator, start, photos)
    assert (errors(generator, refined, photos) <= errors(generator, start, photos)).all()
    exact = sample_codes(generator, 3, 5, 1.0)
    assert torch.equal(Refinement(steps=3, losses=PIXELS)(generator, exact, photos), exact)


def test_the_prior_keeps_codes_near_their_start(generator: StyleGAN2, start: Tensor, photos: Tensor) -> None:
    free, near = (
        Refinement(steps=8, lr=0.1, losses={**PIXELS, "prior": prior})(generator, start, photos) for prior in (0.0, 1e4)
    )
    assert (near - start).square().mean() < 0.3 * (free - start).square().mean()


def test_the_delta_loss_keeps_the_offsets_of_layers_similar(
    generator: StyleGAN2, start: Tensor, photos: Tensor
) -> None:
    def spread(weight: float) -> Tensor:
        losses = {**PIXELS, "delta": weight}
        offset = Refinement(steps=8, lr=0.1, losses=losses)(generator, start, photos) - start
        return (offset - offset.mean(1, keepdim=True)).square().mean()

    assert spread(1e4) < 0.3 * spread(0.0)


def test_photos_of_a_batch_are_independent(generator: StyleGAN2, start: Tensor, photos: Tensor) -> None:
    refine = Refinement(steps=5, losses=PIXELS)
    together = refine(generator, start, photos)
    alone = torch.cat([refine(generator, start[i : i + 1], photos[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-3)


def test_refinement_keeps_its_time_budget(generator: StyleGAN2, start: Tensor, photos: Tensor) -> None:
    begun = time.monotonic()
    refined = Refinement(seconds=0.3, lr=0.1, losses=PIXELS)(generator, start, photos)
    assert time.monotonic() - begun < 60, "without a time budget this would take 10,000 steps"
    assert (errors(generator, refined, photos) <= errors(generator, start, photos)).all()


def test_refinement_works_in_inference_mode_and_does_not_change_the_generator(start: Tensor, photos: Tensor) -> None:
    generator = tiny()  # not frozen: must not accumulate gradients
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    with torch.inference_mode():
        refined = Refinement(steps=3, losses=PIXELS)(generator, start.clone(), photos.clone())
    assert not torch.equal(refined, start)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_encoder_and_optimisation_inverters_return_codes(generator: StyleGAN2, photos: Tensor) -> None:
    class Zero(torch.nn.Module, Encoder):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), generator.num_ws, 512)

    mean = generator.mean_w.expand(3, generator.num_ws, -1)
    plain = EncoderInverter(generator, Zero())
    assert torch.equal(plain.invert(photos).w_plus, mean)
    refined = EncoderInverter(generator, Zero(), Refinement(steps=4, lr=0.1, losses=PIXELS))
    optimised = OptimisationInverter(generator, Refinement(steps=4, lr=0.1, losses=PIXELS))
    assert torch.equal(refined.invert(photos).w_plus, optimised.invert(photos).w_plus)
    assert torch.equal(refined.encode(photos), mean)
    assert errors(generator, refined.invert(photos).w_plus, photos).mean() < errors(generator, mean, photos).mean()


def test_the_error_for_an_invalid_setting_names_it(generator: StyleGAN2) -> None:
    for wrong in ({"steps": -1}, {"seconds": 0.0}):
        with pytest.raises(UserError, match="steps >= 0 and seconds > 0"):
            Refinement(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="lpipz"):
        Refinement(losses={"lpipz": 1.0})
    with pytest.raises(UserError, match=r"refine\.steps"):
        OptimisationInverter(generator, Refinement())
    with pytest.raises(UserError, match="no weights"):
        build({"name": "light", "encoder": {"_target_": "oodgan.inversion.light.LightEncoder"}}, generator)
