"""IR-SE50, the face-recognition backbone (Deng et al. 2019) that pSp, e4e and ReStyle read photos with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.ops import EqualLinear

STYLE_DIM = 512
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
    """Stem and units, with the three levels that feature pyramids read."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.input_layer = stem(channels)
        self.body = irse_units()

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, 256, 256) -> features (B, 128, 64, 64), (B, 256, 32, 32), (B, 512, 16, 16)."""
        x, found = self.input_layer(images), []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in TAPS:
                found.append(x)
        fine, middle, coarse = found
        return fine, middle, coarse


class StyleBlock(nn.Module):
    """Strided convolutions down to 1 px, then a linear layer: features (B, 512, s, s) -> one code (B, 512)."""

    def __init__(self, spatial: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(spatial.bit_length() - 1):
            layers += [nn.Conv2d(STYLE_DIM, STYLE_DIM, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(STYLE_DIM, STYLE_DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Pyramid(Trunk):
    """Trunk with pSp's feature pyramid and one style block a layer of the generator.

    Layers 0 to 2 read 16 px features, 3 to 6 read 32 px, the rest 64 px (Richardson et al. 2021, section 3).
    """

    def __init__(self, num_ws: int = 18, channels: int = 3) -> None:
        super().__init__(channels)
        self.styles = nn.ModuleList(StyleBlock(self.spatial(i)) for i in range(num_ws))
        self.latlayer1 = nn.Conv2d(256, STYLE_DIM, 1)
        self.latlayer2 = nn.Conv2d(128, STYLE_DIM, 1)

    @staticmethod
    def spatial(layer: int) -> int:
        """Size of the features that layer's style block reads."""
        return 16 if layer < 3 else 32 if layer < 7 else 64

    def styles_of(self, images: Tensor) -> list[Tensor]:
        """Each style block's output (B, 512)."""
        fine, middle, coarse = self.levels(images)
        levels = {16: coarse}
        levels[32] = _upsample_add(coarse, self.latlayer1(middle))
        levels[64] = _upsample_add(levels[32], self.latlayer2(fine))
        return [style(levels[self.spatial(i)]) for i, style in enumerate(self.styles)]


def _upsample_add(coarse: Tensor, fine: Tensor) -> Tensor:
    return F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=True) + fine
