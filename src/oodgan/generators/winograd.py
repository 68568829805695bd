"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray 2016).

An image is cut into tiles of 4x4 pixels. Tiles with a border of one pixel (6x6) and kernels are transformed, multiplied
channel by channel in 36 matrix products, and transformed back. Where a product is large enough to be worth the
transforms this halves the time of a convolution on a CPU, at a relative error of about 1e-5 in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 4
PATCH = 6

_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
# Both dimensions at once: (36, 36), (36, 9) and (16, 36).
INPUT, KERNEL, OUTPUT = (torch.kron(m, m) for m in (_INPUT, _KERNEL, _OUTPUT))


# Products smaller than this are not worth the transforms.
CHANNELS, PIXELS = 128, 64 * 64
# Tiles that are transformed at a time: their 36 matrices stay in the caches.
TILES = 256


def possible(x: Tensor) -> bool:
    """Whether x (B, C, H, W) can be convolved here: a float32 image of whole tiles on a CPU, without gradients.

    Never in a graph that is recorded for another runtime, which has its own ways.
    """
    if (
        torch.compiler.is_compiling()
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    return x.dtype == torch.float32 and x.shape[-1] % TILE == 0 and x.shape[-2] % TILE == 0


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)` for x (B, C, H, W), by tiles where that is possible and faster."""
    if min(weight.shape[:2]) < CHANNELS or x.shape[-1] * x.shape[-2] < PIXELS or not possible(x):
        return F.conv2d(x, weight, bias, padding=1)
    channels_last = torch.channels_last
    shape = (len(x), len(weight), *x.shape[2:])
    out = torch.empty(shape, memory_format=channels_last)
    kernel = transform_kernel(weight).transpose(1, 2)
    for image, result in zip(x.contiguous(memory_format=channels_last), out, strict=True):
        _convolve(image.permute(1, 2, 0), kernel, bias, result.permute(1, 2, 0))
    return out


def _convolve(image: Tensor, kernel: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Convolve image (H, W, C) by a transformed kernel (36, C, N) into out (H, W, N), some rows of tiles at a time."""
    height, width, channels = image.shape
    across, made = width // TILE, kernel.shape[2]
    down = _divisor(height // TILE, max(1, TILES // across))
    rows = down * TILE
    patch = torch.zeros(PATCH, PATCH, down, across, channels)
    seen = torch.empty(PATCH**2, down * across, channels)
    product = torch.empty(PATCH**2, down * across, made)
    tiles = torch.empty(TILE, TILE, down, across, made)
    for top in range(0, height, rows):
        bottom = top + rows
        patch[1:5, 1:5] = _cut(image[top:bottom], across)
        patch[0, 1:5, 1:] = patch[4, 1:5, :-1]
        patch[5, 1:5, :-1] = patch[1, 1:5, 1:]
        patch[0, 1:5, 0] = _columns(image[top - 1], across) if top else 0.0
        patch[5, 1:5, -1] = _columns(image[bottom], across) if bottom < height else 0.0
        patch[:, 0, :, 1:] = patch[:, 4, :, :-1]
        patch[:, 5, :, :-1] = patch[:, 1, :, 1:]
        torch.mm(INPUT, patch.view(PATCH**2, -1), out=seen.view(PATCH**2, -1))
        torch.bmm(seen, kernel, out=product)
        torch.mm(OUTPUT, product.view(PATCH**2, -1), out=tiles.view(TILE**2, -1))
        if bias is not None:
            tiles += bias
        _cut(out[top:bottom], across).copy_(tiles)


def _cut(rows: Tensor, across: int) -> Tensor:
    """Rows (4 h, 4 w, C) of an image as tiles (4, 4, h, w, C)."""
    return rows.view(-1, TILE, across, TILE, rows.shape[-1]).permute(1, 3, 0, 2, 4)


def _columns(row: Tensor, across: int) -> Tensor:
    """One row (4 w, C) of an image as (4, w, C)."""
    return row.view(across, TILE, -1).transpose(0, 1)


def _divisor(count: int, limit: int) -> int:
    return next(d for d in range(min(limit, count), 0, -1) if count % d == 0)


def transform_kernel(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (36, out, in)."""
    return (KERNEL @ weight.reshape(-1, 9).T).view(PATCH * PATCH, *weight.shape[:2])


class DenseTiles:
    """Convolutions that each read all channels made so far, as in a dense block: every channel is transformed once.

    Images are held as tiles (4, 4, C, h, w): the pixels at each place of the h x w tiles.
    """

    def __init__(self, channels: int, growth: int, steps: int, down: int, across: int) -> None:
        self.seen = torch.empty(PATCH**2, channels + steps * growth, down * across)
        self.patches = {n: torch.zeros(PATCH, PATCH, n, down, across) for n in {channels, growth}}
        self.down, self.across = down, across

    def append(self, tiles: Tensor, start: int) -> None:
        """Transform tiles (4, 4, C, h, w) to be the channels from `start` on."""
        channels = tiles.shape[2]
        patch = self.patches[channels]
        patch[1:5, 1:5] = tiles
        patch[0, 1:5, :, 1:] = patch[4, 1:5, :, :-1]
        patch[5, 1:5, :, :-1] = patch[1, 1:5, :, 1:]
        patch[:, 0, :, :, 1:] = patch[:, 4, :, :, :-1]
        patch[:, 5, :, :, :-1] = patch[:, 1, :, :, 1:]
        torch.mm(INPUT, patch.view(PATCH**2, -1), out=self.seen[:, start : start + channels].flatten(1))

    def convolve(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve the first channels, as many as weight (N, C, 3, 3) reads: tiles (4, 4, N, h, w)."""
        product = torch.bmm(transform_kernel(weight), self.seen[:, : weight.shape[1]])
        tiles = (OUTPUT @ product.view(PATCH**2, -1)).view(TILE, TILE, -1, self.down, self.across)
        return tiles.add_(bias.view(-1, 1, 1))


def to_tiles(x: Tensor) -> Tensor:
    """(C, H, W) -> (4, 4, C, H / 4, W / 4): the pixels at each place of a tile."""
    channels, height, width = x.shape
    return x.view(channels, height // TILE, TILE, width // TILE, TILE).permute(2, 4, 0, 1, 3).contiguous()


def from_tiles(tiles: Tensor) -> Tensor:
    """Inverse of `to_tiles`."""
    channels, height, width = tiles.shape[2:]
    return tiles.permute(2, 3, 0, 4, 1).reshape(channels, height * TILE, width * TILE)
