"""Inception-ResNet-v1 with a 512-d bottleneck: the network of FaceNet's public checkpoints, batch norm folded in.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (2016), figures
10 to 15; face embedding as in Schroff et al., "FaceNet" (2015).  Input 160x160.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = int | tuple[int, int]


class Conv(nn.Conv2d):
    """Convolution with bias that remembers the TensorFlow scope its weights come from; ReLU unless ``linear``."""

    def __init__(
        self, scope: str, cin: int, cout: int, kernel: Size, stride: int = 1, same: bool = True, linear: bool = False
    ):
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if same else (0, 0)
        super().__init__(cin, cout, (height, width), stride, padding)
        self.scope, self.linear = scope, linear

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.linear else F.relu(x)


class Branches(nn.Module):
    """Branches over one input, concatenated by channel."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Residual(nn.Module):
    """x + scale * conv1x1(branches(x)), then ReLU unless ``linear``."""

    def __init__(self, scope: str, branches: Branches, width: int, channels: int, scale: float, linear: bool = False):
        super().__init__()
        self.branches, self.scale, self.linear = branches, scale, linear
        self.up = Conv(f"{scope}/Conv2d_1x1", width, channels, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.up(self.branches(x))
        return x if self.linear else F.relu(x)


def _block35(scope: str) -> Residual:
    b1, b2 = f"{scope}/Branch_1", f"{scope}/Branch_2"
    branches = Branches(
        Conv(f"{scope}/Branch_0/Conv2d_1x1", 256, 32, 1),
        nn.Sequential(Conv(f"{b1}/Conv2d_0a_1x1", 256, 32, 1), Conv(f"{b1}/Conv2d_0b_3x3", 32, 32, 3)),
        nn.Sequential(
            Conv(f"{b2}/Conv2d_0a_1x1", 256, 32, 1),
            Conv(f"{b2}/Conv2d_0b_3x3", 32, 32, 3),
            Conv(f"{b2}/Conv2d_0c_3x3", 32, 32, 3),
        ),
    )
    return Residual(scope, branches, 96, 256, 0.17)


def _block17(scope: str) -> Residual:
    b1 = f"{scope}/Branch_1"
    branches = Branches(
        Conv(f"{scope}/Branch_0/Conv2d_1x1", 896, 128, 1),
        nn.Sequential(
            Conv(f"{b1}/Conv2d_0a_1x1", 896, 128, 1),
            Conv(f"{b1}/Conv2d_0b_1x7", 128, 128, (1, 7)),
            Conv(f"{b1}/Conv2d_0c_7x1", 128, 128, (7, 1)),
        ),
    )
    return Residual(scope, branches, 256, 896, 0.10)


def _block8(scope: str, scale: float = 0.20, linear: bool = False) -> Residual:
    b1 = f"{scope}/Branch_1"
    branches = Branches(
        Conv(f"{scope}/Branch_0/Conv2d_1x1", 1792, 192, 1),
        nn.Sequential(
            Conv(f"{b1}/Conv2d_0a_1x1", 1792, 192, 1),
            Conv(f"{b1}/Conv2d_0b_1x3", 192, 192, (1, 3)),
            Conv(f"{b1}/Conv2d_0c_3x1", 192, 192, (3, 1)),
        ),
    )
    return Residual(scope, branches, 384, 1792, scale, linear)


def _reduction_a(scope: str) -> Branches:
    b1 = f"{scope}/Branch_1"
    return Branches(
        Conv(f"{scope}/Branch_0/Conv2d_1a_3x3", 256, 384, 3, stride=2, same=False),
        nn.Sequential(
            Conv(f"{b1}/Conv2d_0a_1x1", 256, 192, 1),
            Conv(f"{b1}/Conv2d_0b_3x3", 192, 192, 3),
            Conv(f"{b1}/Conv2d_1a_3x3", 192, 256, 3, stride=2, same=False),
        ),
        nn.MaxPool2d(3, 2),
    )


def _reduction_b(scope: str) -> Branches:
    b0, b1, b2 = (f"{scope}/Branch_{i}" for i in range(3))
    return Branches(
        nn.Sequential(
            Conv(f"{b0}/Conv2d_0a_1x1", 896, 256, 1),
            Conv(f"{b0}/Conv2d_1a_3x3", 256, 384, 3, stride=2, same=False),
        ),
        nn.Sequential(
            Conv(f"{b1}/Conv2d_0a_1x1", 896, 256, 1),
            Conv(f"{b1}/Conv2d_1a_3x3", 256, 256, 3, stride=2, same=False),
        ),
        nn.Sequential(
            Conv(f"{b2}/Conv2d_0a_1x1", 896, 256, 1),
            Conv(f"{b2}/Conv2d_0b_3x3", 256, 256, 3),
            Conv(f"{b2}/Conv2d_1a_3x3", 256, 256, 3, stride=2, same=False),
        ),
        nn.MaxPool2d(3, 2),
    )


class InceptionResnetV1(nn.Module):
    """(B, 3, 160, 160) standardised RGB -> (B, 512) unit vectors."""

    embedding_dim = 512

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Conv("Conv2d_1a_3x3", 3, 32, 3, stride=2, same=False),
            Conv("Conv2d_2a_3x3", 32, 32, 3, same=False),
            Conv("Conv2d_2b_3x3", 32, 64, 3),
            nn.MaxPool2d(3, 2),
            Conv("Conv2d_3b_1x1", 64, 80, 1, same=False),
            Conv("Conv2d_4a_3x3", 80, 192, 3, same=False),
            Conv("Conv2d_4b_3x3", 192, 256, 3, stride=2, same=False),
        )
        self.blocks = nn.Sequential(
            *(_block35(f"Repeat/block35_{i}") for i in range(1, 6)),
            _reduction_a("Mixed_6a"),
            *(_block17(f"Repeat_1/block17_{i}") for i in range(1, 11)),
            _reduction_b("Mixed_7a"),
            *(_block8(f"Repeat_2/block8_{i}") for i in range(1, 6)),
            _block8("Block8", scale=1.0, linear=True),
        )
        self.bottleneck = nn.Linear(1792, self.embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x)).mean((2, 3))
        return F.normalize(self.bottleneck(x), eps=1e-5)

    def load_tensorflow(self, constants: Mapping[str, np.ndarray], root: str = "InceptionResnetV1/") -> None:
        """Copies the frozen graph's constants in; convolutions arrive as HWIO and become OIHW.

        Raises:
            KeyError: a constant is missing: the file is not this network.
        """
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, Conv):
                    scope = root + module.scope
                    bias = f"{scope}/biases" if f"{scope}/biases" in constants else f"{scope}/Conv2D_bn_offset"
                    module.weight.copy_(torch.from_numpy(constants[f"{scope}/weights"]).permute(3, 2, 0, 1))
                    assert module.bias is not None
                    module.bias.copy_(torch.from_numpy(constants[bias]))
            norm = f"{root}Bottleneck/BatchNorm/"
            # Batch norm with unit gain; the graph's epsilon is slim's default.
            gain = 1 / np.sqrt(constants[f"{norm}moving_variance"].astype(np.float64) + 1e-3)
            weight = constants[f"{root}Bottleneck/weights"].T * gain[:, None]
            offset = constants[f"{norm}beta"] - constants[f"{norm}moving_mean"] * gain
            self.bottleneck.weight.copy_(torch.from_numpy(weight))
            self.bottleneck.bias.copy_(torch.from_numpy(offset))
