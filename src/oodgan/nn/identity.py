"""The interface of face recognisers; the config group `identity` selects the one to use."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Recogniser(Protocol):
    """FFHQ-aligned pictures (B, 3, R, R) RGB in [-1, 1] -> unit vectors (B, D): near for one person, far for two.

    `name` contains network and version, and is part of the names of metrics. If not `differentiable`, it can be used in
    metrics but not in losses. It moves to the images' device.
    """

    name: str
    differentiable: bool

    def __call__(self, images: Tensor) -> Tensor: ...

    def networks(self, device: str) -> tuple[nn.Module, ...]:
        """Return its PyTorch networks on a device, whose weights an export needs."""
        ...
