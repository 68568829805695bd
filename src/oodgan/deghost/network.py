"""The deghoster (paper, section 3.4): coarse image -> fine image, guided by a frozen generator.

A dense residual encoder (ESRGAN's RRDB blocks) reads the coarse image at `in_size` and a pyramid below it; its last
level predicts the generator's codes. Up to `in_size` the pyramid is fused into the generator's hidden activations,
above it the decoder concatenates the generator's activations before each pixel shuffle.

The published network also fuses the generator's RGB sums (`fusion_skip`) but never uses the result, so that branch
is left out: the outputs are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators import winograd
from oodgan.generators.protocol import Fuse, Generator
from oodgan.generators.strips import Cut, Strip, give_back, in_strips
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area

RESIDUAL_SCALE = 0.2
SLOPE = 0.2


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2; in place where no gradient needs x."""
    return F.leaky_relu(x, SLOPE, inplace=not torch.is_grad_enabled())


class DenseBlock(nn.Module):
    """Five convolutions, each reading all the outputs before it; scaled and added to the input (B, C, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [channels]
        for i, width in enumerate(widths):
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels + i * growth, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for i in range(1, 5):
            seen = torch.cat([seen, leaky(self.get_submodule(f"conv{i}")(seen))], 1)
        return torch.add(x, self.get_submodule("conv5")(seen), alpha=RESIDUAL_SCALE)

    def tiled(self, x: Tensor, work: winograd.DenseTiles) -> Tensor:
        """The same on tiles (4, 4, C, h, w), without gradients."""
        work.append(x, 0)
        for i in range(1, 5):
            conv: Any = self.get_submodule(f"conv{i}")
            work.append(leaky(work.convolve(conv.weight, conv.bias)), conv.in_channels)
        last: Any = self.get_submodule("conv5")
        return torch.add(x, work.convolve(last.weight, last.bias), alpha=RESIDUAL_SCALE)


class ResidualInResidual(nn.Module):
    """Three dense blocks with a scaled residual around them."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL_SCALE)


class DenseEncoder(nn.Module):
    """Image (B, 3, H, W) -> features (B, out, H, W)."""

    def __init__(self, width: int, growth: int, blocks: int, out: int) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[ResidualInResidual(width, growth) for _ in range(blocks)])
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        fast = winograd.possible(x) and x.shape[-1] * x.shape[-2] >= winograd.PIXELS
        return leaky(self.conv_up(x + self.conv_body(self._tiled(x) if fast else self.body(x))))

    def _tiled(self, x: Tensor) -> Tensor:
        """`self.body(x)` without gradients on a CPU: a third faster, as the dense blocks' many products are smaller."""
        down, across = x.shape[2] // winograd.TILE, x.shape[3] // winograd.TILE
        body: Any = self.body
        first = body[0].rdb1.conv1
        work = winograd.DenseTiles(first.in_channels, first.out_channels, 4, down, across)
        output = torch.empty_like(x, memory_format=torch.channels_last)
        for image, result in zip(x, output, strict=True):
            tiles = winograd.to_tiles(image)
            for block in body:
                before = tiles
                for dense in block.children():
                    tiles = dense.tiled(tiles, work)
                tiles = torch.add(before, tiles, alpha=RESIDUAL_SCALE)
            result.copy_(winograd.from_tiles(tiles))
        return output


class PixelShuffleUp(nn.Module):
    """Convolution to four times the channels, shuffled to twice the size."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.upsample_conv = nn.Conv2d(n_in, 4 * n_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.upsample_conv
        return F.pixel_shuffle(winograd.conv3x3(x, conv.weight, conv.bias), 2)


def tail(blocks: Sequence[nn.Module], x: Tensor, priors: Sequence[Strip | None]) -> Tensor:
    """Run x (B, C, H, W) through the blocks, each of which may enlarge it; (B, C', s H, s W).

    `priors` are concatenated to the blocks' inputs, of their sizes.
    """

    def run(cut: Cut) -> Tensor:
        y = cut(x)
        for block, prior in zip(blocks, priors, strict=True):
            y = y if prior is None else torch.cat([y, prior(cut)], 1)
            y = block(y)
        return y

    return in_strips(run, x)


def _down(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, 2, 1),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(n_out, n_out, 3, 1, 1),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class Deghoster(nn.Module):
    """Coarse image (B, 3, in_size, in_size) -> fine image (B, 3, out_size, out_size), both about [-1, 1].

    Args:
        generator: frozen here, of any architecture of the protocol.
        in_size: what the encoder reads (128 as published); a power of two.
        out_size: result size, the generator's resolution when None.
        width, growth, blocks: of the dense residual encoder (64, 32, 23 as published).
        max_channels: upper limit of the widths outside the generator (512 as published).
        head: channels before the last convolution (64 as published).
        around_mean: the encoder predicts the codes' offset from the generator's mean code instead of the codes
            (False as published; True starts training from plausible faces).

    Raises:
        UserError: sizes that are not powers of two with in_size < out_size <= the generator's resolution.
    """

    def __init__(
        self,
        generator: Generator,
        in_size: int = 128,
        out_size: int | None = None,
        width: int = 64,
        growth: int = 32,
        blocks: int = 23,
        max_channels: int = 512,
        head: int = 64,
        around_mean: bool = False,
    ) -> None:
        super().__init__()
        out_size = out_size or generator.resolution
        powers = all(size & (size - 1) == 0 for size in (in_size, out_size))
        if not (powers and 8 <= in_size < out_size <= generator.resolution):
            raise UserError(
                f"deghoster in_size={in_size}, out_size={out_size}: powers of two are needed, at least 8, "
                f"in_size below out_size, and out_size at most the generator's {generator.resolution}"
            )
        self.in_size, self.out_size, self.around_mean = in_size, out_size, around_mean
        self.generator: Any = Frozen(generator)  # type: ignore[arg-type]
        self.num_ws, self.style_dim = generator.num_ws, generator.style_dim
        self._build(generator.feature_channels, width, growth, blocks, max_channels, head)
        for module in (self.encoder, self.fusion_out, self.decoder):
            # Makes the convolutions a fifth faster on a CPU.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _build(self, prior: dict[int, int], width: int, growth: int, blocks: int, limit: int, head: int) -> None:
        def own(size: int) -> int:
            return min(limit, prior.get(size, 16384 * 2 // size))

        self.pyramid = [2**i for i in range(2, int(math.log2(self.in_size)) + 1)]
        self.tail = [2**i for i in range(int(math.log2(self.in_size)), int(math.log2(self.out_size)) + 1)]
        # Some generators synthesise their last octave without activations of that size (wavelets).
        self.prior_sizes = [size for size in self.tail[1:] if size in prior]
        self.encoder = nn.ModuleList([DenseEncoder(width, growth, blocks, own(self.in_size))])
        for size in self.pyramid[:0:-1]:
            self.encoder.append(_down(own(size), own(size // 2)))
        self.encoder.append(
            nn.Sequential(
                nn.Conv2d(own(4), own(4), 3, 1, 1),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.Flatten(),
                nn.Linear(16 * own(4), self.num_ws * self.style_dim),
            )
        )
        self.fusion_out = nn.ModuleList(
            nn.Conv2d(prior[size] + own(size), prior[size], 3, padding=1) for size in self.pyramid
        )
        self.decoder = nn.ModuleList()
        for size in self.tail:
            n_in = own(size) + (prior[size] if size in self.prior_sizes else 0)
            if size < self.out_size:
                self.decoder.append(PixelShuffleUp(n_in, own(2 * size)))
            else:
                last = nn.Conv2d(head, 3, 3, padding=1)
                self.decoder.append(
                    nn.Sequential(nn.Conv2d(n_in, head, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True), last)
                )

    def trained_state(self) -> dict[str, Tensor]:
        """All tensors; the frozen generator is no part of the state."""
        return self.state_dict()

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Load what `trained_state` gave. UserError naming the first difference."""
        own = self.trained_state()
        differing = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
        if differing:
            raise UserError(f"weights are not of this deghoster: {differing[0]} differs ({len(differing)} tensors)")
        self.load_state_dict(state)

    def encode(self, coarse: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Codes (B, num_ws, 512) and the pyramid {size: features} of a coarse image (B, 3, in_size, in_size)."""
        if tuple(coarse.shape[1:]) != (3, self.in_size, self.in_size):
            raise UserError(
                f"coarse images of shape {tuple(coarse.shape)}: this deghoster reads (B, 3, {self.in_size}, "
                f"{self.in_size})"
            )
        x, pyramid = coarse.contiguous(memory_format=torch.channels_last), {}
        for size, block in zip(reversed(self.pyramid), self.encoder, strict=False):
            x = pyramid[size] = block(x)
        codes = self.encoder[-1](x).view(len(coarse), self.num_ws, self.style_dim)
        return codes + self.generator.mean_w if self.around_mean else codes, pyramid

    def share(self, mask: Tensor) -> Tensor:
        return (mask * 2).clamp(max=1)  # this network redraws the whole image: only edited pixels replace the photo

    def forward(self, coarse: Tensor, *others: Tensor) -> Tensor:
        """Coarse (B, 3, R, R), read at `in_size` -> fine (B, 3, out_size, out_size). `others` are not looked at.

        Without gradients on a CPU, images are taken one by one: as fast there, at a fraction of the memory.
        """
        if len(coarse) > 1 and coarse.device.type == "cpu" and self.out_size >= 512 and not torch.is_grad_enabled():
            return torch.cat([self(image[None]) for image in coarse])
        codes, pyramid = self.encode(resize_area(coarse, self.in_size))
        give_back()

        def fuse(size: int, x: Tensor) -> Tensor:
            if size not in pyramid:
                return x
            conv: Any = self.fusion_out[self.pyramid.index(size)]
            return winograd.conv3x3(torch.cat([x, pyramid.pop(size)], 1), conv.weight, conv.bias)

        x, blocks = pyramid[self.in_size], dict(zip(self.tail, self.decoder, strict=True))
        priors = self._priors(codes, fuse)
        # The last two blocks together: the tensor between them is the largest.
        for sizes in [*([size] for size in self.tail[:-2]), self.tail[-2:]]:
            read = [_until(size, priors) if size in self.prior_sizes else None for size in sizes]
            x = tail([blocks[size] for size in sizes], x, read)
            del read  # before the next ones are made
        return x.contiguous()

    def _priors(self, codes: Tensor, fuse: Fuse) -> Iterator[tuple[int, Strip]]:
        """Yield the prior's sizes, coarsest first, each with a function that reads its activations when needed.

        The finest activations, which are the largest, are computed in strips if the generator supports this.
        """
        by_rows = self.out_size in self.prior_sizes and self.generator.strips
        last = self.out_size // 2 if by_rows else max([self.in_size, *self.prior_sizes])
        for size, x in self.generator.levels(codes, fuse, last=last):
            yield size, partial(_read, x)
            if by_rows and size == last:
                yield self.out_size, partial(self.generator.level, x, codes, "const")


def _read(x: Tensor, cut: Cut) -> Tensor:
    return cut(x)


def _until(size: int, priors: Iterator[tuple[int, Strip]]) -> Strip:
    return next(read for prior_size, read in priors if prior_size == size)
