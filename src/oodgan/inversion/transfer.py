"""How the residuals of an inversion follow an edit of its code.

A residual holds what the photo shows and its code does not: hats and hands, which an edit should keep, and here and
there the old look of what the edit draws anew, which it should not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.feature import deviation
from oodgan.inversion.value import Inversion


class Transfer(Protocol):
    """Decides the residuals of an edited code."""

    def __call__(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        """Returns the edited inversion: the codes `edited` (B, L, 512) with the residuals to use with them."""
        ...


class Whole:
    """The residuals as they are: the most faithful choice, and the one that holds an edit back the most."""

    def __call__(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        return Inversion(edited, inversion.residuals)


class Fade:
    """The residuals, faded where the edit changes the activations most.

    Args:
        quantile: of the change over positions, above which nothing of the residual is left.
        floor: share of that change below which all of it is kept; linear in between.
        strength: 1 fades completely, 0 not at all.
    """

    def __init__(self, quantile: float = 0.97, floor: float = 0.4, strength: float = 1.0) -> None:
        if not (0 < quantile <= 1 and 0 <= floor < 1 and 0 <= strength <= 1):
            raise UserError(
                f"transfer: quantile={quantile}, floor={floor}, strength={strength}: (0, 1], [0, 1) and [0, 1] expected"
            )
        self.quantile, self.floor, self.strength = quantile, floor, strength

    @torch.no_grad()
    def __call__(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        if not inversion.residuals or torch.equal(edited, inversion.w_plus):
            return Inversion(edited, inversion.residuals)
        last = max(inversion.residuals)
        before = generator.features(inversion.w_plus, last=last)
        after = generator.features(edited, last=last)
        faded = {
            r: residual * (1 - self.strength * self._changed(before[r], after[r]))
            for r, residual in inversion.residuals.items()
        }
        return Inversion(edited, faded)

    def _changed(self, before: Tensor, after: Tensor) -> Tensor:
        """How much each position changes, (B, 1, r, r) in [0, 1]."""
        change = (after - before).abs().mean(1, keepdim=True) / deviation(before)
        change = F.avg_pool2d(change, 3, 1, 1, count_include_pad=False)
        high = change.flatten(1).quantile(self.quantile, dim=1)[:, None, None, None].clamp(min=1e-6)
        return ((change - self.floor * high) / ((1 - self.floor) * high)).clamp(0, 1)


def build(cfg: Mapping[str, Any] | None, generator: Generator) -> Transfer:
    """The config group `transfer`; `Whole` where there is none."""
    from hydra.utils import instantiate

    return instantiate(cfg, _partial_=True)() if cfg else Whole()
