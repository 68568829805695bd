"""Composition: pixels outside the mask stay bit-identical, and both published behaviours hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodgan.compose import MODES, compose, fold
from oodgan.errors import UserError

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)
modes = st.sampled_from(MODES)


def images(seed: int, count: int = 3, size: int = 12) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.rand(2, 3, size, size, generator=rng) - 1 for _ in range(count))


def random_mask(seed: int, size: int = 12) -> Tensor:
    """Soft values including zeros and ones, up to the border."""
    rng = torch.Generator().manual_seed(seed + 1)
    return (3 * torch.rand(2, 1, size, size, generator=rng) - 1).clamp(0, 1)


@quick
@given(seeds, modes)
def test_an_empty_mask_returns_the_identical_photo(seed: int, mode: str) -> None:
    photo, inverted, edited = images(seed)
    assert torch.equal(compose(photo, inverted, edited, torch.zeros(2, 1, 12, 12), mode), photo)


@quick
@given(seeds, modes)
def test_outside_the_mask_the_photo_is_bit_identical(seed: int, mode: str) -> None:
    photo, inverted, edited = images(seed)
    mask = random_mask(seed)
    coarse = compose(photo, inverted, edited, mask, mode)
    outside = (mask == 0).expand_as(photo)
    assert outside.any() and torch.equal(coarse[outside], photo[outside])
    assert coarse.shape == photo.shape and coarse.dtype == photo.dtype
    assert coarse.min() >= -1 and coarse.max() <= 1 and torch.isfinite(coarse).all()


@quick
@given(seeds, st.sampled_from(["paper", "alpha"]))
def test_the_paper_mode_computes_equation_4(seed: int, mode: str) -> None:
    photo, inverted, edited = images(seed)
    assert torch.equal(compose(photo, inverted, edited, torch.ones(2, 1, 12, 12), mode), edited)
    mask = random_mask(seed)
    blended = compose(photo, inverted, edited, mask, mode)
    assert torch.allclose(blended, mask * edited + (1 - mask) * photo, atol=1e-6)
    assert (blended <= torch.maximum(photo, edited) + 1e-6).all()
    assert (blended >= torch.minimum(photo, edited) - 1e-6).all()


@quick
@given(seeds)
def test_difference_adds_only_the_masked_change_of_the_edit(seed: int) -> None:
    photo, inverted, edited = images(seed)
    mask = random_mask(seed)
    assert torch.equal(compose(photo, inverted, inverted, mask, "difference"), photo)
    step = compose(photo * 0.2, inverted * 0.2, edited * 0.2, mask, "difference") - photo * 0.2  # far from clamping
    assert torch.allclose(step, mask * (edited - inverted) * 0.2, atol=1e-6)


@quick
@given(seeds)
def test_layered_equals_difference_for_an_exact_inversion_or_a_small_change(seed: int) -> None:
    photo, inverted, edited = images(seed, size=64)
    mask = random_mask(seed, size=64)
    exact = [compose(photo, photo, edited, mask, mode) for mode in ("layered", "difference", "paper")]
    assert torch.allclose(exact[0], exact[1], atol=1e-6) and torch.allclose(exact[0], exact[2], atol=1e-6)
    slightly = inverted + 0.1 * edited
    result, wanted = (compose(photo, inverted, slightly, mask, mode) for mode in ("layered", "difference"))
    assert torch.allclose(result, wanted, atol=1e-6)


def test_layered_takes_the_edits_detail_and_the_photos_colours_where_the_change_is_large() -> None:
    """The photo is 0.2 brighter than its inversion and has its dark line elsewhere; the edit is uniformly bright."""
    ones = torch.ones(1, 1, 64, 64)
    photo, inverted, edited = (v * ones.expand(1, 3, 64, 64) for v in (-0.3, -0.5, 0.4))
    photo, inverted = photo.clone(), inverted.clone()
    photo[..., 30, :] = -0.9
    inverted[..., 34, :] = -0.9
    shown = {mode: compose(photo, inverted, edited, ones, mode) for mode in ("difference", "layered")}
    spread = {mode: float(result[..., 10:-10, 10:-10].std()) for mode, result in shown.items()}
    assert spread["difference"] > 3 * spread["layered"]
    assert torch.allclose(shown["layered"].mean(), torch.tensor(0.6), atol=0.02)


def test_difference_stays_in_range() -> None:
    one = torch.ones(1, 3, 4, 4)
    assert torch.equal(compose(0.8 * one, -one, one, one[:, :1], "difference"), one)


@quick
@given(seeds, modes)
def test_images_of_a_batch_are_independent(seed: int, mode: str) -> None:
    parts = (*images(seed), random_mask(seed))
    together = compose(*parts, mode)
    alone = torch.cat([compose(*(part[i : i + 1] for part in parts), mode) for i in range(2)])
    assert torch.equal(together, alone)


@quick
@given(seeds)
def test_folded_masks_never_exceed_one_half(seed: int) -> None:
    mask = random_mask(seed)
    folded = fold(mask)
    assert (folded <= 0.5).all() and (folded >= 0).all()
    assert torch.equal(folded[mask <= 0.5], mask[mask <= 0.5])
    assert torch.equal(folded[mask > 0.5], 1 - mask[mask > 0.5])
    assert torch.equal(fold(folded), folded)


def test_folding_follows_the_published_rule() -> None:
    mask = torch.tensor([0.0, 0.3, 0.5, 0.500001, 0.8, 1.0])
    assert torch.allclose(fold(mask), torch.tensor([0.0, 0.3, 0.5, 0.499999, 0.2, 0.0]))


def test_poisson_copies_gradients_and_keeps_the_photos_brightness() -> None:
    line = torch.linspace(-1, 1, 48)
    bump = 0.5 * torch.exp(-(line[:, None].square() + line.square()) / 0.03)
    edited = bump.expand(1, 3, 48, 48) - 0.4
    photo = torch.full((1, 3, 48, 48), 0.2)
    mask = torch.zeros(1, 1, 48, 48)
    mask[..., 12:36, 12:36] = 1
    cloned = compose(photo, photo, edited + 0.3, mask, "poisson")
    other = compose(photo, photo, edited, mask, "poisson")
    assert (cloned - other).abs().max() < 0.03
    assert (cloned - photo - bump).abs().max() < 0.08, "the gradients are copied, the level is not"
    flat = compose(photo, photo, torch.full_like(photo, -0.5), mask, "poisson")
    assert (flat - photo).abs().max() < 0.03, "a flat edit has no gradients"


def test_blended_is_the_mean_of_layered_and_poisson() -> None:
    rng = torch.Generator().manual_seed(0)
    photo, inverted, edited = (torch.rand(3, 1, 3, 32, 32, generator=rng) - 0.5).unbind()
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    made = {mode: compose(photo, inverted, edited, mask, mode) for mode in ("layered", "poisson", "blended")}
    torch.testing.assert_close(made["blended"], (made["layered"] + made["poisson"]) / 2)
    assert torch.equal(made["blended"][mask.expand(1, 3, -1, -1) == 0], photo[mask.expand(1, 3, -1, -1) == 0])


@pytest.mark.parametrize(
    "box", [(0, 1, 0, 1), (0, 12, 0, 12), (5, 6, 5, 6), (3, 4, 0, 12), (10, 12, 10, 12), (4, 6, 4, 6)]
)
def test_poisson_accepts_masks_of_any_position_and_size(box: tuple[int, int, int, int]) -> None:
    photo, inverted, edited = images(3)
    mask = torch.zeros(2, 1, 12, 12)
    mask[..., box[0] : box[1], box[2] : box[3]] = 1
    coarse = compose(photo, inverted, edited, mask, "poisson")
    outside = (mask == 0).expand_as(photo)
    assert torch.equal(coarse[outside], photo[outside]) and torch.isfinite(coarse).all()


def test_the_error_for_an_unknown_mode_suggests_the_nearest() -> None:
    photo, inverted, edited = images(0)
    with pytest.raises(UserError, match=r"did you mean 'poisson'"):
        compose(photo, inverted, edited, torch.ones(2, 1, 12, 12), "poison")
