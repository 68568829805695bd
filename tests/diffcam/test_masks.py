"""Masks: values in range for any input, at the place of the edit, and aligned with the photo's edges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodgan.diffcam.masks import KINDS, Masker, blur, build, guided_filter
from oodgan.diffcam.network import DiffCAM
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import tiny
from oodgan.weights import trained

NAMES = ("hat", "mouth", "chin")
NETWORK = {
    "_target_": "oodgan.diffcam.network.DiffCAM",
    "backbone": "vgg16",
    "pretrained": False,
    "layers": [3, 8],
    "cut": 9,
    "trainable_from": 23,
}
QUADRANTS = {
    "hat": (slice(0, 32), slice(0, 32)),
    "mouth": (slice(32, 64), slice(32, 64)),
    "chin": (slice(32, 64), slice(0, 32)),
}


@pytest.fixture(scope="module")
def network() -> DiffCAM:
    torch.manual_seed(0)
    options = {key: value for key, value in NETWORK.items() if key != "_target_"}
    return DiffCAM(num_classes=3, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def regions() -> Tensor:
    """The quadrant of each name, on a 32 px grid."""
    result = torch.zeros(3, 32, 32)
    for i, name in enumerate(NAMES):
        rows, columns = QUADRANTS[name]
        result[i, rows.start // 2 : rows.stop // 2, columns.start // 2 : columns.stop // 2] = 1
    return result


@pytest.fixture(scope="module")
def maskers(network: DiffCAM, regions: Tensor) -> dict[str, Masker]:
    return {kind: Masker(network, NAMES, regions, size=32, kind=kind) for kind in KINDS}


def random_image(seed: int, count: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=rng) - 0.5
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")


def edited_at(image: Tensor, *names: str, by: float = 0.4) -> Tensor:
    changed = image.clone()
    for name in names:
        changed[..., QUADRANTS[name][0], QUADRANTS[name][1]] += by
    return changed


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), by=st.sampled_from([0.0, 1e-7, 1e-3, 0.5, 2.0]), count=st.integers(1, 3))
def test_masks_are_in_range_for_any_input(maskers, kind: str, seed: int, by: float, count: int) -> None:
    image = random_image(seed, 2)
    mask = maskers[kind](image, (image + by * random_image(seed + 1, 2)).clamp(-1, 1), NAMES[:count], image)
    assert mask.shape == (2, 1, 64, 64)
    assert torch.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_identical_images_give_no_nan(maskers, kind: str, value: float) -> None:
    flat = torch.full((1, 3, 64, 64), value)
    assert torch.isfinite(maskers[kind](flat, flat, ["hat"])).all()


def test_the_mask_covers_only_the_region_of_its_edit(maskers) -> None:
    image = random_image(1)
    mask = maskers["guided"](image, edited_at(image, "hat", "mouth"), ["hat"], torch.zeros_like(image))
    assert mask[..., 6:26, 6:26].min() > 0.8, "the region of the edit"
    assert mask[..., 40:, :].max() < 0.05 and mask[..., :, 40:].max() < 0.05, (
        "the region of the other edit is not in the mask"
    )


def test_the_mask_does_not_depend_on_the_strength(maskers) -> None:
    image = random_image(1)
    weak, strong = (maskers["guided"](image, edited_at(image, "hat", by=by), ["hat"]) for by in (0.05, 0.5))
    assert (weak - strong).abs().mean() < 0.02


def test_masks_of_several_names_are_normalised_separately_and_united(maskers) -> None:
    image = random_image(2)
    edited = edited_at(edited_at(image, "hat", by=0.8), "mouth", by=0.08)
    both = maskers["guided"](image, edited, ["hat", "mouth"])
    single = [maskers["guided"](image, edited, [name]) for name in ("hat", "mouth")]
    assert single[1][..., 40:58, 40:58].min() > 0.8
    assert both[..., 40:58, 40:58].min() > 0.8 and both[..., 6:26, 6:26].min() > 0.8
    assert (both - torch.maximum(*single)).abs().mean() < 0.02  # the refinement after the union is not linear
    assert torch.equal(both, maskers["guided"](image, edited, ["mouth", "hat"]))
    paper = maskers["paper"](image, edited, ["hat", "mouth"])
    one, two = (maskers["paper"](image, edited, [name]) for name in ("hat", "mouth"))
    assert torch.equal(paper, torch.maximum(one, two))


def test_a_threshold_of_one_attribute_affects_only_its_mask(network: DiffCAM, regions: Tensor) -> None:
    image = random_image(5)
    edited = edited_at(image, "hat", "mouth")
    usual, own = (
        Masker(network, NAMES, regions, size=32, thresholds=thresholds)(image, edited, ["hat", "mouth"])
        for thresholds in (None, {"mouth": 0.95})
    )
    assert torch.allclose(own[..., :28, :28], usual[..., :28, :28], atol=1e-4)
    assert own[..., 40:58, 40:58].mean() < 0.75 * usual[..., 40:58, 40:58].mean()


def test_images_of_a_batch_are_independent(maskers) -> None:
    image = random_image(3, 2)
    edited = torch.cat([edited_at(image[:1], "hat"), edited_at(image[1:], "hat", by=0.05)])
    for masker in maskers.values():
        together = masker(image, edited, ["hat"])
        alone = torch.cat([masker(image[i : i + 1], edited[i : i + 1], ["hat"]) for i in range(2)])
        assert torch.allclose(together, alone, atol=1e-4)


def test_one_forward_pass_gives_the_masks_of_several_edits(maskers) -> None:
    image = random_image(4)
    edits = {name: edited_at(image, name) for name in NAMES}
    for masker in maskers.values():
        logits, maps = masker.look(image, torch.cat(list(edits.values())))
        assert logits.shape == (3, 3)
        for i, (name, edited) in enumerate(edits.items()):
            again = masker(image, edited, [name], maps=maps[i : i + 1])
            assert torch.allclose(again, masker(image, edited, [name]), atol=1e-4)


def test_the_box_mean_equals_average_pooling() -> None:
    x = torch.rand(1, 1, 9, 9)
    assert torch.equal(blur(x, 0), x)
    assert torch.allclose(blur(x, 2)[0, 0, 4, 5], x[0, 0, 2:7, 3:8].mean(), atol=1e-6)
    assert torch.allclose(blur(torch.full((1, 2, 9, 9), 0.3), 50), torch.full((1, 2, 9, 9), 0.3), atol=1e-5)


def test_the_guided_filter_keeps_constants_and_copies_the_guides_edges() -> None:
    guide = torch.zeros(1, 1, 32, 32)
    guide[..., 16:] = 1
    constant = torch.full_like(guide, 0.7)
    assert torch.allclose(guided_filter(guide, constant, 4), constant, atol=1e-4)
    soft = blur(guide, 3)
    sharpened = guided_filter(guide, soft, 4, 1e-4)
    assert (sharpened[..., 16] - sharpened[..., 15] > 2 * (soft[..., 16] - soft[..., 15])).all()


def test_the_error_for_a_wrong_name_or_kind_names_it(maskers, network: DiffCAM) -> None:
    image = random_image(0)
    with pytest.raises(UserError, match=r"did you mean 'mouth'"):
        maskers["guided"](image, image, ["mouht"])
    with pytest.raises(UserError, match="at least one"):
        maskers["guided"](image, image, [])
    with pytest.raises(UserError, match="did you mean 'guided'"):
        Masker(network, NAMES, kind="guide")
    with pytest.raises(UserError, match="kind=paper"):
        Masker(network, NAMES, None, kind="guided")


def test_a_masker_is_built_from_its_weights_and_another_generator_is_refused(
    network: DiffCAM, regions: Tensor, maskers, tmp_path: Path
) -> None:
    generator = tiny()
    bank = Bank(NAMES, torch.ones(3, generator.num_ws, 512), generator.id, generator.id)
    tensors = {**{f"network.{k}": v for k, v in network.state_dict().items()}, "regions": regions}
    path = tmp_path / trained.FILE
    trained.save(path, tensors, part="diffcam", generator=generator.id, directions=list(NAMES))
    cfg = {"network": NETWORK, "weights": str(tmp_path), "size": 32, "mask": {"kind": "guided"}}
    image = random_image(4)
    edited = edited_at(image, "chin")
    built = build(cfg, generator, bank)
    assert torch.allclose(built(image, edited, ["chin"]), maskers["guided"](image, edited, ["chin"]), atol=1e-5)
    other = tiny(seed=1)
    with pytest.raises(UserError) as caught:
        build(cfg, other, bank)
    assert generator.id in str(caught.value) and other.id in str(caught.value)
    with pytest.raises(UserError, match="oodgan diffcam"):
        build({**cfg, "weights": None}, generator, bank)


def test_strength_scales_the_mask_of_a_copy(maskers: dict[str, Masker]) -> None:
    pair = random_image(7), edited_at(random_image(7), "mouth")
    for masker in maskers.values():
        plain = masker(*pair, ["mouth"])
        half = masker.adjusted(strength=0.5, feather=masker.feather)(*pair, ["mouth"])
        assert torch.allclose(half, plain / 2, atol=1e-6) and plain.max() > 0
        assert masker.adjusted(strength=3.0, feather=masker.feather)(*pair, ["mouth"]).max() <= 1
        assert torch.equal(masker(*pair, ["mouth"]), plain)
    wide = maskers["guided"].adjusted(strength=1.0, feather=0.2)(*pair, ["mouth"])
    assert not torch.equal(wide, maskers["guided"](*pair, ["mouth"]))


def test_a_threshold_of_an_unknown_attribute_is_an_error(network: DiffCAM, regions: Tensor) -> None:
    with pytest.raises(UserError, match=r"unknown diffcam\.mask\.thresholds 'mouht' \(did you mean 'mouth'"):
        Masker(network, NAMES, regions, size=32, thresholds={"mouht": 0.1})
