"""Directions solved from measured effects: the wanted change with the smallest side effects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from oodgan.directions.discovery import ProbeDiscovery
from oodgan.directions.linear import fit_codes
from oodgan.directions.solve import Effects, Prices, Solver, solve
from oodgan.errors import UserError

OWN = torch.tensor([True, False])


def _effects(scores: list[list[float]], identity: tuple[float, float] = (0.0, 0.0)) -> Effects:
    """Two steps whose effects on two scores are the same for all five samples."""
    faces = torch.zeros(2, 5, 512)
    faces[0, :, 0], faces[1, :, 1] = identity
    return Effects(torch.tensor(scores)[:, None].expand(2, 5, 2), faces, torch.zeros(2, 5, 192))


def test_steps_of_other_attributes_cancel_unwanted_changes():
    effects = _effects([[1.0, 0.5], [0.0, 1.0]])
    free = solve(effects, 0, OWN, Prices(others=100, own=1e-4, foreign=1e-4))
    assert torch.allclose(free, torch.tensor([1.0, -0.5]), atol=1e-2)
    dear = solve(effects, 0, OWN, Prices(others=1, own=1e-4, foreign=1e4))
    assert torch.allclose(dear, torch.tensor([1.0, 0.0]), atol=1e-2)


def test_the_solved_change_is_one_and_changes_of_identity_are_penalised():
    effects = _effects([[1.0, 0.0], [1.0, 0.0]], identity=(1.0, 0.1))
    weights = solve(effects, 0, torch.tensor([True, True]), Prices())
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5) and weights[1] > 5 * weights[0] > 0


def test_steps_without_effect_are_an_error():
    with pytest.raises(UserError, match="longer steps"):
        solve(_effects([[0.0, 1.0], [0.0, 1.0]]), 0, OWN, Prices())
    with pytest.raises(UserError, match="at least 4"):
        Solver(samples=2)


def test_regressed_directions_change_one_score_and_avoid_unused_dimensions():
    """Two correlated scores: the direction of one leaves the other unchanged and avoids unused dimensions."""
    torch.manual_seed(0)
    codes = torch.randn(4000, 512) * 0.01
    codes[:, :3] = torch.randn(4000, 3)
    scores = torch.stack([codes[:, 0], codes[:, 0] + codes[:, 1]], 1)
    result = fit_codes(codes, scores)
    wanted = torch.zeros(512)
    wanted[:2] = torch.tensor([1.0, -1.0])
    assert float(F.cosine_similarity(result[0], wanted, dim=0)) > 0.99


@pytest.mark.network
def test_a_solved_direction_changes_the_other_part_less(painter, painted: Path):
    """`disc` and `top` depend on a common dimension: the solved direction changes top less for the same disc."""
    settings = {"samples": 300, "truncation": 1.0, "size": 64, "holdout": 0.3}
    attributes = {"top": {"try": 1.0}, "disc": {"try": 1.0}}
    plain, solved = (
        ProbeDiscovery(
            str(painted / "labels.csv"), str(painted / "images"), attributes=attributes, solve=more, **settings
        ).discover(painter).vectors[1, 1]
        for more in (None, {"samples": 8, "prices": {"others": 5.0, "foreign": 0.05}})
    )  # fmt: skip
    assert _leak(painter, solved) < _leak(painter, plain)


def _leak(painter, line: torch.Tensor) -> float:
    return abs(float(painter.top.weight[0] @ line)) / float(painter.disc.weight[0] @ line)
