"""The inversion of a photo: its code, and residuals for what the code cannot represent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodgan.generators.protocol import Generator


@dataclass(frozen=True)
class Inversion:
    """W+ codes and, where the inverter gives them, residuals on the generator's activations (feature space).

    Args:
        w_plus: codes (B, L, 512).
        residuals: {resolution r: (B, C, r, r)}, in the units of the activations; empty for a code alone.
    """

    w_plus: Tensor
    residuals: Mapping[int, Tensor] = field(default_factory=dict)

    def image(self, generator: Generator, size: int | None = None) -> Tensor:
        """Decode to (B, 3, R, R), or to a preview of `size` px, clamped to [-1, 1]."""
        return generator.synthesis(self.w_plus, size=size, residuals=self.residuals).clamp(-1, 1)

    def to(self, device: torch.device | str) -> Inversion:
        """Return a copy on another device."""
        return Inversion(self.w_plus.to(device), {r: x.to(device) for r, x in self.residuals.items()})

    def detach(self) -> Inversion:
        """Return a copy without gradients."""
        return Inversion(self.w_plus.detach(), {r: x.detach() for r, x in self.residuals.items()})

    def __len__(self) -> int:
        return len(self.w_plus)

    def __getitem__(self, rows: slice) -> Inversion:
        return Inversion(self.w_plus[rows], {r: x[rows] for r, x in self.residuals.items()})


def concatenate(parts: Iterable[Inversion]) -> Inversion:
    """Concatenate inversions to one batch. Residuals that only some of them have are 0 for the others."""
    parts = list(parts)
    shapes = {r: (x.shape[1:], x) for part in parts for r, x in part.residuals.items()}
    residuals = {
        r: torch.cat([part.residuals.get(r, like.new_zeros(len(part), *shape)) for part in parts])
        for r, (shape, like) in shapes.items()
    }
    return Inversion(torch.cat([part.w_plus for part in parts]), residuals)
