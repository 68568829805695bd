"""Change of an attribute by an edit: a probe's score before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from oodgan.metrics.base import Once, PerImage

Probe = Callable[[Tensor], Tensor]


class AttributeChange(PerImage):
    """Mean change of a probe's score from target to result, in the probe's own unit, along `sign`.

    `probe` maps pictures (B, 3, H, W) in [-1, 1] to scores (B,) (unit: standard deviations of the attribute over
    real faces, for the probes of `oodgan.directions`).  `version` names the probe: it is part of the metric's name.
    """

    higher_is_better = True

    def __init__(self, probe: Probe, attribute: str, version: str, sign: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.probe, self.sign, self._before = probe, sign, Once(probe)
        self.name = f"change_{attribute}_{version}"

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return self.sign * (self.probe(result) - self._before(target)).reshape(len(result)).double()
