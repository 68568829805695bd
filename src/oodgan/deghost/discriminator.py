"""StyleGAN2's discriminator (Karras et al. 2020) in plain PyTorch, names as in rosinality's layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.ops import SQRT2, Bias, EqualLinear, activate, blur, blur_kernel
from oodgan.nn.gather import whole_batch


class EqualConv(nn.Module):
    """Convolution without bias, its weight scaled by 1 / sqrt(fan_in) at run time."""

    def __init__(self, n_in: int, n_out: int, k: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, k, k))
        self.scale = 1 / math.sqrt(n_in * k * k)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class Blur(nn.Module):
    """The (4, 4) low-pass filter before a strided convolution."""

    kernel: Tensor

    def __init__(self, pad: int, stride: int = 1) -> None:
        super().__init__()
        self.pad, self.stride = pad, stride
        self.register_buffer("kernel", blur_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return blur(x, self.kernel, (self.pad, self.pad), stride=self.stride)


class Activation(Bias):
    """Bias and scaled leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return activate(x, self.bias)


class ResidualDown(nn.Module):
    """(B, in, H, W) -> (B, out, H/2, W/2): two convolutions beside a filtered 1x1 one, the sum over sqrt(2)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv(n_in, n_in, 3, padding=1), Activation(n_in))
        self.conv2 = nn.Sequential(Blur(2), EqualConv(n_in, n_out, 3, stride=2), Activation(n_out))
        # A 1x1 convolution of stride 2 reads every second pixel, so the filter computes only those.
        self.skip = nn.Sequential(Blur(1, stride=2), EqualConv(n_in, n_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


def batch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append one channel: the mean standard deviation within groups of `group` images (or the whole smaller batch).

    In training the groups are those of the batch of all processes, so that several take the steps of one.

    Raises:
        UserError: the batch is larger than `group` and not a multiple of it.
    """
    images, mine = whole_batch(x)
    batch, channels, height, width = images.shape
    group = min(group, batch)
    if batch % group:
        raise UserError(f"a batch of {batch} images does not divide into the discriminator's groups of {group}")
    grouped = images.reshape(group, batch // group, channels, height, width)
    deviation = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3), keepdim=True)
    return torch.cat([x, deviation.repeat(group, 1, height, width)[mine]], 1)


class Discriminator(nn.Module):
    """Images (B, 3, R, R) in about [-1, 1] -> realness logits (B, 1).

    Args:
        resolution: a power of two, at least 8 (1024 as published).
        channel_multiplier, max_channels: widths as in the generator of the same size.
    """

    def __init__(self, resolution: int = 1024, channel_multiplier: int = 2, max_channels: int = 512) -> None:
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise UserError(f"discriminator resolution {resolution} is not a power of two of at least 8")
        self.resolution = resolution

        def channels(size: int) -> int:
            return min(max_channels, 16384 * channel_multiplier // size)

        sizes = [2**i for i in range(int(math.log2(resolution)), 2, -1)]
        first = nn.Sequential(EqualConv(3, channels(resolution), 1), Activation(channels(resolution)))
        self.convs = nn.Sequential(first, *[ResidualDown(channels(size), channels(size // 2)) for size in sizes])
        self.final_conv = nn.Sequential(EqualConv(channels(4) + 1, channels(4), 3, padding=1), Activation(channels(4)))
        self.final_linear = nn.Sequential(
            EqualLinear(16 * channels(4), channels(4), activation=True), EqualLinear(channels(4), 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.resolution, self.resolution):
            raise UserError(
                f"images of {tuple(images.shape[-2:])}: this discriminator reads {self.resolution} x {self.resolution}"
            )
        return self.final_linear(self.final_conv(batch_deviation(self.convs(images))).flatten(1))
