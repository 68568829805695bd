"""Losses on the scores of attribute probes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from oodgan.directions.losses import AttributeLoss, ChangeLoss
from oodgan.directions.probes import Probes


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(19456, 3, generator=rng) / 50
    path = tmp_path_factory.mktemp("probes") / "probes.safetensors"
    return Probes(("a", "b", "c"), weights, torch.zeros(3), {"a": 1.0, "b": 1.0, "c": 1.0}, size=64).save(path)


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_attribute_loss_is_zero_for_equal_images_and_only_the_result_gets_gradients(probes: Path) -> None:
    loss = AttributeLoss(probes)
    result, target = images(2, 0).requires_grad_(True), images(2, 1).requires_grad_(True)
    assert float(loss(result, result)) == 0 and not list(loss.parameters()) and not loss.state_dict()
    loss(result, target).backward()
    assert result.grad is not None and float(result.grad.abs().sum()) > 0 and target.grad is None


def test_the_change_loss_is_one_minus_the_achieved_fraction_of_the_change(probes: Path) -> None:
    loss = ChangeLoss(probes, floor=1e-6)
    photo, edited = images(1, 2), images(1, 3)
    change = loss.scores(edited) - loss.scores(photo)
    half = photo.clone().requires_grad_(True)
    share = ((loss.scores((photo + edited) / 2) - loss.scores(photo)) * change).sum() / change.square().sum()
    result = loss((photo + edited) / 2, photo, edited, photo)
    torch.testing.assert_close(result, (1 - share).clamp(min=0))
    assert float(loss(photo, photo, edited, photo)) == pytest.approx(1)
    assert float(loss(edited, photo, edited, photo)) == pytest.approx(0, abs=1e-5)
    loss(half, photo, edited, photo).backward()
    assert float(half.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_the_change_loss_is_zero_for_an_edit_without_change(probes: Path) -> None:
    photo = images(2, 4)
    assert float(ChangeLoss(probes)(images(2, 5), photo, photo, photo)) == 0
