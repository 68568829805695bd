"""The face parser without its training: classes, augmentation, losses, network and outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.parsing.augment import moved, varied
from oodgan.parsing.classes import CLASSES, NAMES, UNKNOWN, celebamask, merged, numbers
from oodgan.parsing.losses import DiceLoss
from oodgan.parsing.network import ParserNetwork
from oodgan.parsing.parser import Parser, build
from oodgan.weights import trained


def network() -> ParserNetwork:
    torch.manual_seed(0)
    return ParserNetwork(len(NAMES), width=8).eval()


def test_every_label_has_a_class_and_left_and_right_share_one() -> None:
    every = torch.arange(19)
    assert sorted(n for parts in CLASSES.values() for n in parts) == every.tolist()
    classes = merged(every)
    assert NAMES[classes[4]] == NAMES[classes[5]] == "eyes" and NAMES[classes[18]] == "cloth"
    back = celebamask(classes)
    assert back[5] == 4 and back[14] == 14 and torch.equal(merged(back), classes)
    assert merged(torch.tensor([-1, 19, 255])).tolist() == [UNKNOWN] * 3


def test_the_error_for_an_unknown_class_suggests_the_nearest() -> None:
    assert numbers(["hat", "skin"]) == [14 - 3, 1] == [NAMES.index("hat"), 1]
    with pytest.raises(UserError, match=r"'hats'.*hat"):
        numbers(["hats"])


def test_augmentation_transforms_image_and_classes_together() -> None:
    torch.manual_seed(0)
    classes = F.interpolate(torch.randint(0, 15, (4, 1, 4, 4)).float(), 64)[:, 0].long()
    images = (classes / 7 - 1)[:, None].expand(-1, 3, -1, -1)
    result, labels = moved(images, classes, degrees=20, scale=1.3, shift=0.1)
    same = (result[:, 0] - (labels / 7 - 1)).abs() < 1e-5
    assert same.float().mean() > 0.75  # all except the borders, where the image is interpolated
    assert (labels != classes).float().mean() > 0.2 and labels.unique().tolist() == classes.unique().tolist()


def test_augmentation_labels_occluders_as_background() -> None:
    torch.manual_seed(0)
    images, classes = torch.full((8, 3, 64, 64), 0.5), torch.ones(8, 64, 64, dtype=torch.long)
    result, labels = varied(images, classes, degrees=0, scale=1, shift=0, colour=0, occlusion=1)
    covered = labels == 0
    assert 0.02 < covered.float().mean() < 0.6
    untouched = (result - images).abs().amax(1) < 1e-3
    assert not (untouched & covered).float().mean() > 0.3 * covered.float().mean()
    kept, same = varied(images, classes, degrees=0, scale=1, shift=0, colour=0, occlusion=0)
    assert torch.allclose(kept, images, atol=1e-5) and torch.equal(same, classes)


def test_dice_loss_is_zero_for_the_true_classes_and_ignores_unknown_pixels() -> None:
    classes = torch.randint(0, 15, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    scores = 50.0 * F.one_hot(classes, 15).movedim(-1, 1).float()
    loss = DiceLoss()
    assert float(loss(scores, classes)) == pytest.approx(0, abs=1e-4)
    assert float(loss(scores.roll(1, 1), classes)) > 0.9
    half = classes.clone()
    half[:, 8:] = UNKNOWN
    wrong = scores.clone()
    wrong[:, :, 8:] = scores.roll(1, 1)[:, :, 8:]
    assert float(loss(wrong, half)) == pytest.approx(0, abs=1e-4)


def test_frozen_blocks_do_not_change() -> None:
    part = ParserNetwork(len(NAMES), width=8, frozen=4).train()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    part(torch.randn(2, 3, 64, 64)).square().mean().backward()
    torch.optim.SGD([p for p in part.parameters() if p.requires_grad], 0.1).step()
    changed = {name for name, value in part.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(tuple(f"trunk.{i}." for i in range(4))) for name in changed)


def test_a_parser_returns_probabilities_classes_celebamask_labels_and_regions() -> None:
    parser = Parser(network(), size=64)
    photos = torch.rand(2, 3, 96, 96) * 2 - 1
    result = parser(photos)
    assert result.shape == (2, 15, 64, 64) and torch.allclose(result.sum(1), torch.ones(2, 64, 64), atol=1e-5)
    assert torch.equal(parser.classes(photos), result.argmax(1))
    assert torch.equal(parser.celebamask(photos), celebamask(result.argmax(1)))
    region = parser.region(photos, ["hair", "hat"], 32)
    assert region.shape == (2, 1, 32, 32)
    assert torch.allclose(region, parser(photos, 32)[:, [10, 11]].sum(1, keepdim=True))
    assert torch.allclose(parser.region(photos, NAMES), torch.ones(2, 1, 64, 64), atol=1e-5)


def test_a_parser_is_built_from_its_weights_and_other_classes_are_refused(tmp_path: Path) -> None:
    cfg = {"network": {"_target_": "oodgan.parsing.network.ParserNetwork", "width": 8, "pretrained": True}, "size": 64}
    state = network().state_dict()
    trained.save(tmp_path / "a" / trained.FILE, state, part="parser", classes=list(NAMES))
    parser = build({**cfg, "weights": str(tmp_path / "a")})
    assert parser is not None
    photos = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(parser(photos), Parser(network(), 64)(photos))
    trained.save(tmp_path / "b" / trained.FILE, state, part="parser", classes=["skin", "hair"])
    with pytest.raises(UserError, match="has the classes skin, hair"):
        build({**cfg, "weights": str(tmp_path / "b")})
    with pytest.raises(UserError, match=r"parser\.foreign=0\.0: a difference in colour above 0"):
        build({**cfg, "weights": str(tmp_path / "a"), "foreign": 0})
    assert build(None) is None and build({"name": "none", "network": None}) is None
