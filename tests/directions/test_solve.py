"""Directions solved from measured effects: the wanted movement at the lowest price."""

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
    """Two steps whose effects on two scores are the same on every one of five samples."""
    faces = torch.zeros(2, 5, 512)
    faces[0, :, 0], faces[1, :, 1] = identity
    return Effects(torch.tensor(scores)[:, None].expand(2, 5, 2), faces, torch.zeros(2, 5, 192))


def test_steps_of_other_attributes_cancel_unwanted_movement():
    effects = _effects([[1.0, 0.5], [0.0, 1.0]])
    free = solve(effects, 0, OWN, Prices(others=100, own=1e-4, foreign=1e-4))
    assert torch.allclose(free, torch.tensor([1.0, -0.5]), atol=1e-2)
    dear = solve(effects, 0, OWN, Prices(others=1, own=1e-4, foreign=1e4))
    assert torch.allclose(dear, torch.tensor([1.0, 0.0]), atol=1e-2)


def test_the_requested_movement_is_one_and_identity_is_penalised():
    effects = _effects([[1.0, 0.0], [1.0, 0.0]], identity=(1.0, 0.1))
    weights = solve(effects, 0, torch.tensor([True, True]), Prices())
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5) and weights[1] > 5 * weights[0] > 0


def test_steps_without_effect_are_reported():
    with pytest.raises(UserError, match="longer steps"):
        solve(_effects([[0.0, 1.0], [0.0, 1.0]]), 0, OWN, Prices())
    with pytest.raises(UserError, match="at least 4"):
        Solver(samples=2)


def test_regressed_codes_lie_among_the_samples():
    """Two correlated scores: the codes' change with one of them leaves the other, and keeps off idle dimensions."""
    torch.manual_seed(0)
    codes = torch.randn(4000, 512) * 0.01
    codes[:, :3] = torch.randn(4000, 3)
    scores = torch.stack([codes[:, 0], codes[:, 0] + codes[:, 1]], 1)
    result = fit_codes(codes, scores)
    wanted = torch.zeros(512)
    wanted[:2] = torch.tensor([1.0, -1.0])
    assert float(F.cosine_similarity(result[0], wanted, dim=0)) > 0.99


@pytest.mark.network
def test_solving_keeps_the_painters_parts_apart(painter, painted: Path):
    """`disc` grows with a dimension that `top` needs: solved, top moves less for the same disc."""
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
