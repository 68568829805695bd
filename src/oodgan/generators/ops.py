"""The operations of StyleGAN2 (Karras et al. 2020) in plain PyTorch: no compilation step, any device.

Layers are written for speed on a CPU. A convolution scales activations by the style before and by the
demodulation after it, instead of making one weight per sample; for a single image without gradients both are folded
into the weight where that is the smaller tensor. `sqrt(2)` of the activation is folded too:
leaky ReLU is positively homogeneous, so `a * lrelu(x) == lrelu(a * x)` for `a > 0`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.winograd import conv3x3

BLUR_TAPS = (1.0, 3.0, 3.0, 1.0)
SQRT2 = math.sqrt(2.0)
SLOPE = 0.2
ROWS_OF = 1 << 17  # numbers


def blur_kernel(gain: float = 1.0) -> Tensor:
    """The (4, 4) binomial low-pass filter [1, 3, 3, 1] x [1, 3, 3, 1], normalised to the sum `gain`."""
    taps = torch.tensor(BLUR_TAPS)
    kernel = torch.outer(taps, taps)
    return kernel * (gain / kernel.sum())


def blur(x: Tensor, kernel: Tensor, padding: tuple[int, int], stride: int = 1, bias: Tensor | None = None) -> Tensor:
    """Filter every channel of x (B, C, H, W) by a symmetric (4, 4) kernel, padding (before, after) in both axes.

    `bias` (C) is added; `stride` keeps every `stride`-th output.
    """
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    before, after = padding
    if before != after:
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, weight, bias, stride=stride, groups=channels)
    return F.conv2d(x, weight, bias, stride=stride, padding=before, groups=channels)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double the size of x (B, C, H, W) by zero insertion and the (4, 4) filter (of sum 4)."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


def activate(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """sqrt(2) * leaky_relu(x + bias, 0.2); bias (C) along dimension 1."""
    if bias is not None:
        x = x + bias.view(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x, SLOPE) * SQRT2


class EqualLinear(nn.Module):
    """Linear layer whose weight is scaled at run time by `lr / sqrt(fan_in)` (Karras et al. 2018, equalised rate)."""

    def __init__(self, n_in: int, n_out: int, bias_init: float = 0.0, lr: float = 1.0, activation: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr)
        self.bias = nn.Parameter(torch.full((n_out,), bias_init))
        self.scale = lr / math.sqrt(n_in)
        self.lr = lr
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight * self.scale, self.bias * self.lr)
        return activate(out) if self.activation else out


class PixelNorm(nn.Module):
    """x / rms(x) over dimension 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style and, if `demodulate`, whose output has unit variance.

    `weight` is (1, out, in, k, k) as in rosinality's layout. With `up` the image doubles in size.
    """

    kernel: Tensor

    def __init__(
        self, n_in: int, n_out: int, k: int, style_dim: int = 512, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, n_out, n_in, k, k))
        self.modulation = EqualLinear(style_dim, n_in, bias_init=1.0)
        self.scale = 1.0 / math.sqrt(n_in * k * k)
        self.demodulate = demodulate
        self.up = up
        self.register_buffer("kernel", blur_kernel(gain=4.0), persistent=False)

    def demodulation(self, style: Tensor) -> Tensor:
        """(B, out) factors that bring each output channel to unit variance, for style (B, in)."""
        power = self.weight[0].square().sum((2, 3)) * self.scale**2
        return torch.rsqrt(F.linear(style.square(), power) + 1e-8)

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None = None, gain: float = 1.0) -> Tensor:
        """x (B, in, H, W), w (B, style_dim) -> gain * convolution + bias, (B, out, H, W) or twice the size."""
        style = self.modulation(w)
        before = style * (self.scale if self.demodulate else self.scale * gain)
        if x.shape[0] == 1 and not torch.is_grad_enabled() and x.numel() > self.weight.numel() // 4:
            weight = self.weight[0] * before.view(1, -1, 1, 1)
            if self.demodulate:
                power = torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True).square()
                weight *= torch.rsqrt(power + 1e-8) * gain
            return self._convolve(x, weight, bias)
        after = self.demodulation(style) * gain if self.demodulate else None
        out = self._convolve(x * before[:, :, None, None], self.weight[0], bias if after is None else None)
        if after is None:
            return out
        if bias is None:
            return out * after[:, :, None, None]
        return torch.addcmul(bias.view(1, -1, 1, 1), out, after[:, :, None, None])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.up:
            return conv3x3(x, weight, bias) if weight.shape[-1] == 3 else F.conv2d(x, weight, bias)
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return blur(x, self.kernel, (1, 1), bias=bias)


class NoiseStrength(nn.Module):
    """Holds the learned strength, shape (1), of a layer's noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class Bias(nn.Module):
    """Holds the bias (C) of an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU: one layer of the synthesis network."""

    def __init__(self, n_in: int, n_out: int, style_dim: int = 512, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, n_out, 3, style_dim, up=up)
        self.noise = NoiseStrength()
        self.activate = Bias(n_out)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, in, H, W), w (B, style_dim), noise (1 or B, 1, H', W') or None -> (B, out, H', W')."""
        out = self.conv(x, w, self.activate.bias * SQRT2, gain=SQRT2)
        if torch.is_grad_enabled():
            out = out if noise is None else out + noise * (self.noise.weight * SQRT2)
            return F.leaky_relu(out, SLOPE)
        if noise is not None:
            noise = noise * (self.noise.weight * SQRT2)
        # A few rows at a time on a CPU, so that the second operation finds them in the CPU cache.
        rows = max(1, ROWS_OF // out[0, :, 0].numel()) if out.device.type == "cpu" else out.shape[2]
        for top in range(0, out.shape[2], rows):
            some = out[:, :, top : top + rows]
            if noise is not None:
                some += noise[:, :, top : top + rows]
            F.leaky_relu_(some, SLOPE)
        return out


class ToRGB(nn.Module):
    """1x1 modulated convolution to three channels, added to the upsampled image of the level before."""

    kernel: Tensor

    def __init__(self, n_in: int, style_dim: int = 512) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.register_buffer("kernel", blur_kernel(gain=4.0), persistent=False)

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, in, H, W), w (B, style_dim), skip (B, 3, H/2, W/2) or None -> (B, 3, H, W)."""
        out = self.conv(x, w, self.bias.view(3))
        return out if skip is None else out + upsample(skip, self.kernel)
