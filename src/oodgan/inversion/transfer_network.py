"""The network that changes a residual on the generator's activations when the code is edited.

StyleFeatureEditor (Bobkov et al. 2024, section 3.3) trains a feature editor for the same purpose. Here the network's
inputs are the activations of the code alone, before and after the edit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.inversion.blocks import SLOPE, blocks, double


class TransferNetwork(nn.Module):
    """(residual, activations before, activations after) -> the residual to use after the edit.

    A U-Net of three resolutions (r, r/2, r/4) predicts a gate and an addition for each channel and position. Both are
    multiplied by how much the edit changes the activations there, so the residual is returned unchanged where the edit
    does nothing. The last layers start at zero: an untrained network returns every residual unchanged.

    Args:
        channels: of the generator's activations at `resolution`.
        resolution: side of the activations.
        widths: channels at the three resolutions.
        depth: residual blocks at each.
        sensitivity: where the edit changes the activations by 1 / sensitivity standard deviations (mean over channels),
            three quarters of the network's output are used; where it changes nothing, none.
    """

    def __init__(
        self,
        channels: int,
        resolution: int = 64,
        widths: tuple[int, int, int] = (64, 96, 128),
        depth: int = 2,
        sensitivity: float = 2.0,
    ) -> None:
        super().__init__()
        if resolution % 4:
            raise UserError(f"transfer.network.resolution={resolution}: a multiple of 4 expected")
        self.channels, self.resolution, self.sensitivity = channels, resolution, sensitivity
        fine, middle, coarse = widths
        self.residual = nn.Conv2d(channels, fine, 1)
        self.before = nn.Conv2d(channels, fine, 1)
        self.change = nn.Conv2d(channels, fine, 1)
        self.enter = blocks(fine, depth)
        self.down = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle = blocks(middle, depth)
        self.down_again = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = blocks(coarse, depth)
        self.up = nn.Conv2d(coarse, middle, 1)
        self.rejoin = blocks(middle, 1)
        self.up_again = nn.Conv2d(middle, fine, 1)
        self.leave = blocks(fine, 1)
        self.gate = nn.Conv2d(fine, channels, 1)
        self.addition = nn.Conv2d(fine, channels, 1)
        for layer in (self.gate, self.addition):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, residual: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """(B, C, r, r) each, in units of the standard deviation of `before` -> (B, C, r, r) in the same units."""
        change = after - before
        fine = self.enter(self.residual(residual) + self.before(before) + self.change(change))
        middle = self.middle(self.down(fine))
        x = self.coarse(self.down_again(middle))
        x = self.rejoin(middle + double(self.up(x)))
        x = F.leaky_relu(self.leave(fine + double(self.up_again(x))), SLOPE)
        return residual + self.activity(change) * (self.gate(x) * residual + self.addition(x))

    def activity(self, change: Tensor) -> Tensor:
        """How much the edit changes each position, (B, 1, r, r) in [0, 1)."""
        mean = F.avg_pool2d(change.abs().mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
        return torch.tanh(self.sensitivity * mean)
