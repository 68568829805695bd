"""Base class of per-image metrics: one value per image, and a mean that is correct for any number of processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

Value = TypeVar("Value")


class Once(Generic[Value]):
    """A function of a batch of images that is not called again for the batch of its last call.

    Several results are measured against the same photos, whose embeddings or scores need computing only once.
    """

    def __init__(self, function: Callable[[Tensor], Value]) -> None:
        self.function = function
        self._latest: tuple[Tensor, Value] | None = None

    def __call__(self, images: Tensor) -> Value:
        if self._latest is None or self._latest[0] is not images:
            self._latest = (images, self.function(images))
        return self._latest[1]


class PerImage(Metric):
    """Mean of one value per image, kept as a float64 sum and a count, so uneven shards add up exactly.

    Subclasses define `name` (with network and version), `inputs` (keys of an evaluation batch, the arguments in order)
    and `per_image`. A nan means that there is nothing to measure on this image (e.g. no such region) and is left out of
    sum and count. Without any value the mean is nan.
    """

    name: str
    inputs: tuple[str, ...] = ("result", "target")
    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = None
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def per_image(self, *inputs: Tensor) -> Tensor:
        """One value per image, (B,)."""

    def update(self, *inputs: Tensor, values: Tensor | None = None) -> None:
        """Add a batch; `values` (B,) are earlier results of `per_image`, to avoid computing them again."""
        if values is None:
            with torch.no_grad():
                values = self.per_image(*inputs)
        known = ~values.isnan()
        self.total += values[known].double().sum()
        self.count += known.sum()

    def compute(self) -> Tensor:
        return self.total / self.count
