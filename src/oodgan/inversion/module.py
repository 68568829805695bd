"""Training of encoders: exact codes of samples first, images of real faces after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import Generator
from oodgan.inversion.augment import occlude
from oodgan.inversion.inverter import offsets_in_passes
from oodgan.metrics.lpips import lpips_distance
from oodgan.nn.ema import Ema
from oodgan.nn.facenet import IdentityLoss
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area
from oodgan.training.module import FitModule

DEFAULT_WEIGHTS: dict[str, float] = {
    "code": 1.0, "l2": 1.0, "lpips": 0.8, "identity": 0.5, "norm": 0.0, "delta": 0.0, "latent": 0.0,
}  # fmt: skip


class InversionModule(FitModule):
    """Trains an encoder whose output is offsets to `generator.mean_w`.

    Losses, each weighted by `losses` (0 leaves it out and costs nothing):

    - `code`: squared error to the exact code, in units of the deviation of w; an image without one counts as 0, so that
      processes whose parts of a batch hold more of them or fewer take the step of one,
    - `l2`, `lpips` (`lpips_net`), `identity`: between photo and G(w+) at `size` pixels,
    - `norm`: mean square of the offsets, in the same units (pSp, section 3.3: w-norm regularisation),
    - `delta`: mean square of each layer's difference from the mean layer (e4e, section 4.1.1),
    - `latent`: e4e's discriminator of codes (`oodgan.inversion.latent`, whose module adds it to these).

    A batch holds `code` with `features` (described beforehand), and/or `image` in [-1, 1], whose exact code is
    `w_plus` in the rows that `has_w_plus` marks. Images are encoded in `passes` looks, and while training a share
    `occlusion` of them is seen partly covered, while the losses ask for the whole face.
    """

    deviation: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        generator: Generator,
        losses: Mapping[str, float] | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_steps: int = 1000,
        size: int = 256,
        lpips_net: str = "alex",
        ema_decay: float = 0.995,
        passes: int = 1,
        occlusion: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator: Any = Frozen(generator)  # type: ignore[arg-type]
        self.losses = {**DEFAULT_WEIGHTS, **(losses or {})}
        self.ema = Ema(encoder, ema_decay)
        self.lr, self.betas, self.weight_decay, self.max_steps = lr, (betas[0], betas[1]), weight_decay, max_steps
        self.size, self.lpips_net = min(size, generator.resolution), lpips_net
        self.passes, self.occlusion = passes, occlusion
        if hasattr(encoder, "correction"):
            encoder.correction.requires_grad_(passes > 1)  # processes of one run must agree on what is trained
        self.identity = IdentityLoss()
        with torch.no_grad():
            z = torch.randn(2000, generator.style_dim, generator=torch.Generator().manual_seed(1))
            deviation = generator.mapping(z.to(generator.mean_w.device)).std(0).mean()
        self.register_buffer("deviation", deviation.cpu())

    def forward(self, photos: Tensor) -> Tensor:
        """Photos (B, 3, R, R) -> codes (B, L, 512), by the averaged weights."""
        return self.generator.mean_w + offsets_in_passes(self.ema.module, self.generator, photos, self.passes)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        parts = self._losses(self.encoder, batch)
        total = self._total(parts)
        self.log_training({**parts, "loss": total}, batch_idx)
        return total

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        parts = self._losses(self.ema.module, batch)
        self.log_validation({**parts, "loss": self._total(parts)}, len(batch["image" if "image" in batch else "code"]))

    def _total(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.losses[name] * value for name, value in parts.items()]).sum()

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What to show of a batch: photos and their inversions; nothing of a batch of codes alone."""
        if "image" not in batch:
            return {}
        inverted = self.generator.synthesis(self(batch["image"]), size=self.size).clamp(-1, 1)
        return {"photo": resize_area(batch["image"], self.size), "inverted": inverted}

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, self.lr, betas=self.betas, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.max_steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _losses(self, encoder: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        described = batch.get("features")
        offsets = encoder.head(described) if described is not None else self._encode(encoder, batch["image"])
        found = {}
        if self.losses["code"]:
            code, known = _exact_codes(batch, offsets)
            error = (self.generator.mean_w + offsets - code) / self.deviation
            found["code"] = (error.square().mean((1, 2)) * known).mean()
        found |= self._offset_losses(offsets)
        if "image" in batch and any(self.losses[name] for name in ("l2", "lpips", "identity")):
            photos = resize_area(batch["image"], self.size)
            inverted = self.generator.synthesis(self.generator.mean_w + offsets, size=self.size)
            found |= self._image_losses(inverted, photos)
        return found

    def _encode(self, encoder: Any, photos: Tensor) -> Tensor:
        if self.training and self.occlusion:
            photos = occlude(photos, probability=self.occlusion)
        return offsets_in_passes(encoder, self.generator, photos, self.passes)

    def _offset_losses(self, offsets: Tensor) -> dict[str, Tensor]:
        found = {}
        if self.losses["norm"]:
            found["norm"] = (offsets / self.deviation).square().mean()
        if self.losses["delta"]:
            found["delta"] = ((offsets - offsets.mean(1, keepdim=True)) / self.deviation).square().mean()
        return found

    def _image_losses(self, inverted: Tensor, photos: Tensor) -> dict[str, Tensor]:
        found = {}
        if self.losses["l2"]:
            found["l2"] = F.mse_loss(inverted, photos)
        if self.losses["lpips"]:
            distance = lpips_distance(self.lpips_net, str(photos.device))
            found["lpips"] = distance(inverted.clamp(-1, 1), photos).mean()
        if self.losses["identity"]:
            found["identity"] = self.identity(inverted, photos)
        return found


def _exact_codes(batch: Mapping[str, Any], offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The exact codes of a batch, shaped as `offsets` (B, L, 512), and which of its rows have one, (B,) of 0 and 1."""
    if "code" in batch:
        return batch["code"], offsets.new_ones(len(offsets))
    known = batch.get("has_w_plus", offsets.new_zeros(len(offsets)))
    return batch.get("w_plus", torch.zeros_like(offsets)), known.to(offsets)
