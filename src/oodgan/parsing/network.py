"""The face parser's network: MobileNetV2's trunk and a light decoder that gathers its stages from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.nn.backbones import imagenet_normalise
from oodgan.nn.mobilenet import mobilenet_v2, mobilenet_v2_layers

TAPS = (1, 3, 6, 13, 16)
"""MobileNetV2 blocks whose outputs the decoder gathers: at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's side."""


class ParserNetwork(nn.Module):
    """Classifies each pixel of an aligned face.

    Images (B, 3, S, S) in [-1, 1] with S a multiple of 32 -> scores (B, classes, S / 2, S / 2), logits.

    Args:
        classes: number of classes.
        width: channels of the decoder; half of it at the finest stage.
        pretrained: start from ImageNet weights (`mobilenet_v2` of the registry).
        frozen: number of first blocks of the trunk that are not trained and whose batch statistics are fixed.
    """

    def __init__(self, classes: int, width: int = 64, pretrained: bool = False, frozen: int = 0) -> None:
        super().__init__()
        trunk = mobilenet_v2() if pretrained else mobilenet_v2_layers()
        self.frozen = frozen
        self.trunk = nn.Sequential(*list(trunk)[: TAPS[-1] + 1])
        widths = [_width(self.trunk[i]) for i in TAPS]
        narrow = [max(width // 2, 8)] + [width] * (len(TAPS) - 1)
        self.lateral = nn.ModuleList(_point(inside, outside) for inside, outside in zip(widths, narrow, strict=True))
        self.smooth = nn.ModuleList(_separable(each) for each in narrow)
        self.narrow = _point(width, narrow[0])
        self.head = nn.Conv2d(narrow[0], classes, 1)
        self.trunk[:frozen].requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> ParserNetwork:
        """As usual, but frozen blocks stay in eval mode."""
        super().train(mode)
        self.trunk[: self.frozen].eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        levels = self._levels(imagenet_normalise(images))
        x = self.smooth[-1](self.lateral[-1](levels[-1]))
        for i in reversed(range(len(TAPS) - 1)):
            x = F.interpolate(self.narrow(x) if i == 0 else x, scale_factor=2.0, mode="bilinear")
            x = self.smooth[i](x + self.lateral[i](levels[i]))
        return self.head(x)

    def _levels(self, x: Tensor) -> Sequence[Tensor]:
        levels = []
        for i, block in enumerate(self.trunk):
            x = block(x)
            if i in TAPS:
                levels.append(x)
        return levels


def _width(block: nn.Module) -> int:
    return [each for each in block.modules() if isinstance(each, nn.BatchNorm2d)][-1].num_features


def _point(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))


def _separable(width: int) -> nn.Sequential:
    depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.BatchNorm2d(width), nn.ReLU(), *_point(width, width), nn.ReLU())
