"""A loss term: any callable of tensors that returns a scalar."""

from __future__ import annotations

from torch import Tensor, nn


class EdgeLoss(nn.Module):
    """Mean absolute difference of horizontal and vertical edges of result and target, (B, 3, H, W) in [-1, 1]."""

    # What it is called with, of what the training makes. (result, target) is the default and could be left out.
    inputs = ("result", "target")

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        difference = result - target
        across, down = difference.diff(dim=3).abs().mean(), difference.diff(dim=2).abs().mean()
        return across + down
