"""Building blocks of the networks that work on the generator's activations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
"""Of the leaky ReLU."""


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the second starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))


def blocks(width: int, count: int) -> nn.Sequential:
    """`count` blocks in a row."""
    return nn.Sequential(*[Block(width) for _ in range(count)])


def double(x: Tensor) -> Tensor:
    """Double the resolution, bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear")
