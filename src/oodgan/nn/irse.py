"""IR-SE50, the face-recognition backbone (Deng et al. 2019) of pSp, e4e and ReStyle."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (channels, units) of the four stages; each stage's first unit halves the size.
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
# Last units of the three later stages: 128, 256 and 512 channels at 64, 32 and 16 px of a 256 px photo.
TAPS = (6, 20, 23)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class Unit(nn.Module):
    """Improved residual unit: batch norm, 3x3, PReLU, strided 3x3, batch norm, squeeze-and-excite; plus the input."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if n_in == n_out:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(n_in),
            nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False),
            nn.PReLU(n_out),
            nn.Conv2d(n_out, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            SqueezeExcite(n_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def irse_units() -> nn.Sequential:
    """The 24 units of IR-SE50."""
    units, n_in = [], 64
    for channels, count in STAGES:
        for i in range(count):
            units.append(Unit(n_in, channels, 2 if i == 0 else 1))
            n_in = channels
    return nn.Sequential(*units)


def stem(channels: int) -> nn.Sequential:
    """The first layer, reading `channels` (3, or 6 for a photo beside its current inversion)."""
    return nn.Sequential(nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))


class Trunk(nn.Module):
    """Stem and units, with the three feature levels of pyramids."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.input_layer = stem(channels)
        self.body = irse_units()

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, 256, 256) -> features (B, 128, 64, 64), (B, 256, 32, 32), (B, 512, 16, 16)."""
        x, levels = self.input_layer(images), []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in TAPS:
                levels.append(x)
        fine, middle, coarse = levels
        return fine, middle, coarse
