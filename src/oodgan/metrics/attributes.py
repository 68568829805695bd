"""Whether the edit happened: a probe's score before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from oodgan.metrics.base import PerImage

Probe = Callable[[Tensor], Tensor]


class AttributeChange(PerImage):
    """Mean change of a probe's score from target to result, in the probe's own unit, along `sign`.

    `probe` maps pictures (B, 3, H, W) in [-1, 1] to scores (B,) (unit: standard deviations of the attribute over
    real faces, for the probes of `oodgan.directions`).  `version` names the probe: it is part of the metric's name.
    """

    higher_is_better = True

    def __init__(self, probe: Probe, attribute: str, version: str, sign: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.probe, self.sign = probe, sign
        self.name = f"change_{attribute}_{version}"

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return self.sign * (self.probe(result) - self.probe(target)).reshape(len(result)).double()


class AttributeShare(Metric):
    """The edit's mean change divided by the plain edit's mean change: how much of the edit the method kept.

    A ratio of means, not a mean of ratios, which an image with almost no change would dominate.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    inputs = ("result", "target", "plain")
    done: Tensor
    wanted: Tensor

    def __init__(self, probe: Probe, attribute: str, version: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.probe, self.name = probe, f"change_share_{attribute}_{version}"
        self.add_state("done", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("wanted", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, result: Tensor, target: Tensor, plain: Tensor) -> None:
        """Three batches (B, 3, H, W) in [-1, 1]: the method's result, the photo, and G(w + edit)."""
        with torch.no_grad():
            before = self.probe(target).double()
            self.done += (self.probe(result).double() - before).sum()
            self.wanted += (self.probe(plain).double() - before).sum()

    def compute(self) -> Tensor:
        return self.done / self.wanted
