"""The feature pyramid and style blocks with which pSp, e4e and ReStyle predict a code from IR-SE50 features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.ops import EqualLinear
from oodgan.nn.irse import Trunk

STYLE_DIM = 512


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
    """Trunk with pSp's feature pyramid and one style block per generator layer.

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
