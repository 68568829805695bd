"""Large images some rows at a time, so that what lies between the layers of a network is never held whole."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from oodgan.generators.winograd import TILE

Cut = Callable[[Tensor], Tensor]
Strip = Callable[[Cut], Tensor]
"""Some rows of an image, made where they are read."""

# Pixels of the image that are read at a time, and the rows beyond them that the result may depend on (whole tiles).
PIXELS, HALO = 32 * 512, TILE


def in_strips(run: Strip, x: Tensor) -> Tensor:
    """What `run` makes of an image, a strip of rows at a time where that saves memory: on a CPU without gradients.

    Never in a graph that is recorded for another runtime.

    Args:
        run: layers that may enlarge the image by a whole factor, and in which a row depends on `HALO` rows above and
            below at most. It is given `cut`, reads x and whatever else it reads through it, `cut(x)`, and returns
            (B, C, h, w); what is larger than x by a whole factor is cut in proportion.
        x: image (B, C, H, W) that the strips are counted in.

    Returns:
        (B, C, s H, s W) for a factor of s, channels last when it was made in strips.
    """
    height, width = x.shape[2:]
    rows = max(HALO, PIXELS // width)
    at_once = x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if at_once or height <= rows:
        return run(whole)
    give_back()
    out: Tensor | None = None
    for top in range(0, height, rows):
        # All of the same height, so that memory blocks are reused and the convolution is set up once.
        high = min(height, max(0, top - HALO) + rows + 2 * HALO)
        low = max(0, high - rows - 2 * HALO)
        strip = run(lambda other, low=low, high=high: _rows(other, low, high, height))  # type: ignore[misc]
        scale = strip.shape[3] // width
        if out is None:
            out = strip.new_empty(strip.shape[0], height * scale, width * scale, strip.shape[1]).permute(0, 3, 1, 2)
        made = out[:, :, top * scale : (top + rows) * scale]
        made.copy_(strip[:, :, (top - low) * scale :][:, :, : made.shape[2]])
    assert out is not None
    give_back()
    return out


def whole(x: Tensor) -> Tensor:
    """The `Cut` that leaves all rows."""
    return x


def _rows(x: Tensor, low: int, high: int, height: int) -> Tensor:
    """Rows low to high, counted in an image of `height` rows, of x, which has as many or a multiple of them."""
    scale = x.shape[2] // height
    return x[:, :, low * scale : high * scale]


def give_back() -> None:
    """Let the C library return freed blocks to the system: glibc keeps those below 32 MB. Takes milliseconds.

    Does nothing while gradients are recorded: what follows in training wants the same blocks again.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no C library of that name, as on Windows
        return None
