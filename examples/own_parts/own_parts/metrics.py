"""A metric: one of torchmetrics with (result, target), its state sums and counts, so that processes can be added up."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class EdgeError(Metric):
    """Mean over images of the absolute difference of their edges; (B, 3, H, W) in [-1, 1]."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, result: Tensor, target: Tensor) -> None:
        difference = (result - target).double()
        self.total += difference.diff(dim=3).abs().mean((1, 2, 3)).sum()
        self.count += len(result)

    def compute(self) -> Tensor:
        return self.total / self.count
