"""Directions that change one attribute and little else, solved from the measured effects of candidate steps.

A linear model in W predicts in which direction an attribute's score grows, but the real effect of a step shows only in
the image. So all candidate steps are rendered on the same samples, and for each attribute the combination is chosen
that changes it by one standard deviation at the lowest cost for the other scores, the identity and the colours. The
cost is quadratic and the change linear, so this is one small linear system per attribute.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodgan.directions.calibrate import Bench
from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes

log = logging.getLogger("oodgan")


@dataclass(frozen=True)
class Prices:
    """Costs of changes, relative to a change of the attribute itself by one standard deviation.

    `others`: mean square movement of the other scores; `identity`: squared distance of FaceNet's embeddings (2 minus
    twice the similarity); `colour`: mean square change of an 8 x 8 thumbnail in [-1, 1]; `own` and `foreign`: squared
    coefficient of the attribute's own candidate steps and of those of other attributes. The latter cost more: mixtures
    of them can raise the score without showing the attribute.
    """

    others: float = 5.0
    identity: float = 1.5
    colour: float = 15.0
    own: float = 0.05
    foreign: float = 5.0


class Solver:
    """Measures steps and solves for directions.

    Args:
        samples, seed, truncation: the samples that the steps are tried on.
        prices: `Prices`, or its fields.

    Raises:
        UserError: fewer than four samples.
    """

    def __init__(
        self, samples: int = 24, seed: int = 200, truncation: float = 0.8,
        prices: Prices | Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        if samples < 4:
            raise UserError(f"directions.solve.samples={samples}: at least 4")
        self.samples, self.seed, self.truncation = int(samples), int(seed), float(truncation)
        self.prices = prices if isinstance(prices, Prices) else Prices(**(prices or {}))

    def __call__(self, bench: Bench, names: Sequence[str], steps: Tensor) -> Tensor:
        """Combine S candidate steps of each attribute (K, S, L, 512) to directions (K, L, 512) that change it by 1."""
        lines = steps.shape[1]
        codes = sample_codes(bench.generator, self.samples, self.seed, self.truncation)
        effects = measure(bench, codes, steps.flatten(0, 1))
        directions = []
        for i, name in enumerate(names):
            own = torch.zeros(len(names) * lines, dtype=torch.bool)
            own[i * lines : (i + 1) * lines] = True
            weights = solve(effects, bench.probes.index(name), own, self.prices)
            directions.append(torch.einsum("j,jld->ld", weights, steps.flatten(0, 1)))
        return torch.stack(directions)


@dataclass
class Effects:
    """Effects of J steps on N samples: `scores` (J, N, P), `faces` (J, N, 512), `thumbs` (J, N, 192)."""

    scores: Tensor
    faces: Tensor
    thumbs: Tensor


def measure(bench: Bench, codes: Tensor, steps: Tensor) -> Effects:
    """Render codes (N, L, 512) with each of steps (J, L, 512), and without."""
    base, effects = bench(codes), []
    for i, step in enumerate(steps):
        seen = bench(codes + step)
        effects.append((seen.scores - base.scores, seen.faces - base.faces, seen.thumbs - base.thumbs))
        if (i + 1) % 8 == 0:
            log.info("directions: %d of %d steps measured", i + 1, len(steps))
    return Effects(*(torch.stack(part) for part in zip(*effects, strict=True)))


def solve(effects: Effects, column: int, own: Tensor, prices: Prices) -> Tensor:
    """Return coefficients (J,) of the steps whose sum changes score `column` by 1 on average at the lowest cost.

    `own` (J,) is true for the attribute's own candidate steps.

    Raises:
        UserError: no step changes the score.
    """
    wanted = effects.scores[:, :, column].mean(1)
    if float(wanted.abs().max()) < 1e-3:
        raise UserError("none of the tried steps moves the attribute: take longer steps or other layers")
    others = torch.cat([effects.scores[..., :column], effects.scores[..., column + 1 :]], -1)
    mixing = torch.full((len(wanted),), prices.foreign)
    mixing[own] = prices.own
    cost = (
        prices.others * _gram(others) / max(others.shape[-1], 1)
        + prices.identity * _gram(effects.faces)
        + prices.colour * _gram(effects.thumbs) / effects.thumbs.shape[-1]
        + torch.diag(mixing)
    )
    cheapest = torch.linalg.solve(cost.double(), wanted.double()).float()
    return cheapest / (wanted @ cheapest)


def _gram(changes: Tensor) -> Tensor:
    """Changes (J, N, D) -> (J, J): mean over samples of the products, summed over D."""
    return torch.einsum("ind,jnd->ij", changes, changes) / changes.shape[1]
