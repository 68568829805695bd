"""A few optimisation steps in W+ from a given code, regularised to stay near it and so remain editable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.descent import check_budget, descend
from oodgan.nn.facenet import IdentityLoss
from oodgan.nn.resize import resize_area

LOSSES: dict[str, float] = {"l2": 1.0, "lpips": 1.0, "identity": 0.5, "prior": 0.02, "delta": 0.0}


@dataclass
class Refinement:
    """Adam on the codes of a batch; the budget is `steps`, or `seconds` for the whole batch, whichever ends first.

    Losses: `l2`, `lpips` (AlexNet) and `identity` (of `recogniser`, FaceNet when None) between photo and G(w+) at
    `size` px; `prior`, the squared distance to the starting code in units of the deviation of w; `delta`, the spread of
    the offset over the layers. Cosine decay of `lr`, and each photo keeps the code of its own lowest loss.
    """

    steps: int = 0
    seconds: float | None = None
    lr: float = 0.05
    size: int = 256
    losses: Mapping[str, float] = field(default_factory=dict)
    recogniser: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.recogniser, Mapping):
            self.recogniser = instantiate(self.recogniser)
        check_budget("refine", self.steps, self.seconds)
        unknown = set(self.losses) - set(LOSSES)
        if unknown:
            raise UserError(f"refine.losses has no {', '.join(sorted(unknown))}; known: {', '.join(LOSSES)}")

    def __call__(self, generator: Generator, codes: Tensor, photos: Tensor) -> Tensor:
        """Start codes (B, L, 512) and photos (B, 3, R, R) -> refined codes (B, L, 512)."""
        if not self.steps and self.seconds is None:
            return codes
        with torch.inference_mode(False), torch.enable_grad():
            start, size = codes.clone().detach(), min(self.size, generator.resolution)
            target, unit = resize_area(photos.clone(), size), _deviation(generator)
            offset = descend(
                lambda offset: self._losses(generator, start, offset, target, size, unit),
                start, self.lr, self.steps, self.seconds, betas=(0.9, 0.99),
            )  # fmt: skip
            return start + offset

    def _losses(
        self, generator: Generator, start: Tensor, offset: Tensor, target: Tensor, size: int, unit: float
    ) -> Tensor:
        weights = {**LOSSES, **self.losses}
        image = generator.synthesis(start + offset, size=size)
        total = torch.zeros(len(start), device=start.device)
        if weights["l2"]:
            total = total + weights["l2"] * F.mse_loss(image, target, reduction="none").mean((1, 2, 3))
        if weights["lpips"]:
            from oodgan.metrics.lpips import lpips_distance  # brings torchmetrics: 2 s, 0.2 GB

            distance = lpips_distance("alex", str(target.device))
            total = total + weights["lpips"] * distance(image.clamp(-1, 1), target)
        if weights["identity"]:
            pairs = [IdentityLoss(self.recogniser)(a[None], b[None]) for a, b in zip(image, target, strict=True)]
            total = total + weights["identity"] * torch.stack(pairs)
        total = total + weights["prior"] * (offset / unit).square().mean((1, 2))
        if weights["delta"]:
            spread = offset - offset.mean(1, keepdim=True)
            total = total + weights["delta"] * (spread / unit).square().mean((1, 2))
        return total


@torch.no_grad()
def _deviation(generator: Generator) -> float:
    """Mean standard deviation of the components of w over samples: the unit of distances in W+."""
    z = torch.randn(500, generator.style_dim, generator=torch.Generator().manual_seed(1))
    return float(generator.mapping(z.to(generator.mean_w.device)).std(0).mean())
