"""The protocol of generators, and functions that work with any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from oodgan.errors import UserError

Fuse = Callable[[int, Tensor], Tensor]
Residuals = Mapping[int, Tensor]
"""{resolution r: (B, feature_channels[r], r, r)}, added to the hidden activations of that resolution."""
STYLE_DIM = 512


@runtime_checkable
class Generator(Protocol):
    """w+ -> image. The rest of the project uses only this protocol and does not depend on an architecture.

    `synthesis(size=...)` decodes only as far as an image of that size needs: an approximation of the area-resized full
    image, whose error each architecture documents. `levels(fuse=...)` calls `fuse(resolution, x)` on the hidden
    activations of each resolution before the next block uses them; `residuals` are added to them before that
    (feature-space inversion), and without residuals nothing changes.
    """

    resolution: int
    num_ws: int
    style_dim: int
    mean_w: Tensor
    feature_channels: dict[int, int]
    strips: bool
    """Whether it has `level(x, w_plus, noise, cut)`, which makes a few rows of a resolution's activations at a time."""

    @property
    def id(self) -> str:
        """Architecture and the first 8 hex digits of the weights' sha256."""
        ...

    def mapping(self, z: Tensor) -> Tensor:
        """Latents z (B, style_dim) -> codes w (B, style_dim)."""
        ...

    def synthesis(
        self, w_plus: Tensor, noise: str = "const", size: int | None = None, residuals: Residuals | None = None
    ) -> Tensor:
        """Codes (B, num_ws, style_dim) -> images (B, 3, size, size) around [-1, 1]."""
        ...

    def levels(
        self, w_plus: Tensor, fuse: Fuse | None = None, *, last: int | None = None, residuals: Residuals | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Codes -> (resolution, hidden activations (B, feature_channels[resolution], resolution, resolution)).

        Coarsest first, up to the resolution `last` (None: all). Computed lazily.
        """
        ...

    def features(
        self, w_plus: Tensor, fuse: Fuse | None = None, *, last: int | None = None, residuals: Residuals | None = None
    ) -> dict[int, Tensor]:
        """All of `levels` together, {resolution: hidden activations}."""
        ...


def check_residuals(residuals: Residuals | None, feature_channels: Mapping[int, int], batch: int) -> Residuals:
    """Return the residuals, {} for None. Raises UserError if one does not fit the activations or the batch."""
    for resolution, value in (residuals or {}).items():
        channels = feature_channels.get(resolution)
        if channels is None:
            have = ", ".join(map(str, feature_channels))
            raise UserError(f"a residual at {resolution} px: this generator has activations at {have} px")
        if tuple(value.shape) != (batch, channels, resolution, resolution):
            wanted = (batch, channels, resolution, resolution)
            raise UserError(f"a residual of shape {tuple(value.shape)} at {resolution} px: {wanted} expected")
    return residuals or {}


def weights_id(architecture: str, state: Mapping[str, Tensor]) -> str:
    """`architecture-` + 8 hex digits of the sha256 over the tensors, by name: the identity that artifacts carry."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        hasher.update(name.encode())
        hasher.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return f"{architecture}-{hasher.hexdigest()[:8]}"


@torch.no_grad()
def mean_code(mapping: Callable[[Tensor], Tensor], samples: int = 10_000, style_dim: int = STYLE_DIM) -> Tensor:
    """The mean of w over `samples` latents of a fixed seed: (style_dim,)."""
    z = torch.randn(samples, style_dim, generator=torch.Generator().manual_seed(0))
    return mapping(z).mean(0)


@torch.no_grad()
def sample_codes(generator: Generator, count: int, seed: int, truncation: float = 0.7, mixing: float = 0.0) -> Tensor:
    """Draw codes (count, num_ws, style_dim), the same for the same seed on every machine.

    `truncation` scales the distance to `mean_w` (StyleGAN, section B); with probability `mixing` a sample takes its
    layers from a random one on from a second latent (style mixing).
    """
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(2 * count, generator.style_dim, generator=rng)
    first, second = generator.mapping(z.to(generator.mean_w.device)).chunk(2)
    layers = generator.num_ws
    codes = first[:, None].repeat(1, layers, 1)
    if mixing > 0:
        start = torch.randint(1, layers, (count,), generator=rng)
        start[torch.rand(count, generator=rng) >= mixing] = layers
        swapped = (torch.arange(layers)[None] >= start[:, None])[..., None].to(codes.device)
        codes = torch.where(swapped, second[:, None], codes)
    return generator.mean_w + truncation * (codes - generator.mean_w)
