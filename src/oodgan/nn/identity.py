"""The protocol of face recognisers: the config group `identity` names the one that all are handed."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Recogniser(Protocol):
    """FFHQ-aligned pictures (B, 3, R, R) RGB in [-1, 1] -> unit vectors (B, D): near for one person, far for two.

    `name` says which network in which version, and becomes part of metrics' names. Gradients reach the pictures where
    `differentiable`; without them it can measure, and cannot be a loss. It follows the pictures' device.
    """

    name: str
    differentiable: bool

    def __call__(self, images: Tensor) -> Tensor: ...

    def networks(self, device: str) -> tuple[nn.Module, ...]:
        """The networks that it runs on a device, as far as they are PyTorch's: an export has to know their weights."""
        ...
