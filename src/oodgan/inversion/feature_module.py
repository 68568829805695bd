"""Training of the feature encoder (`oodgan.inversion.feature`): image, perceptual, identity and latent losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import Generator
from oodgan.inversion.augment import occlude
from oodgan.inversion.feature import FeatureEncoder, deviation, predict
from oodgan.inversion.inverter import Inverter
from oodgan.metrics.lpips import lpips_distance
from oodgan.nn.ema import Ema
from oodgan.nn.facenet import IdentityLoss
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area
from oodgan.training.module import FitModule

DEFAULT_WEIGHTS: dict[str, float] = {"l2": 2.0, "lpips": 1.0, "identity": 0.3, "size": 0.01, "activations": 0.05}


class FeatureModule(FitModule):
    """Trains a feature encoder on photos whose codes a frozen inverter gives.

    Losses, each weighted by `losses` (0 leaves it out and costs nothing):

    - `l2`, `lpips` (AlexNet), `identity`: between photo and G(w+, residual) at the encoder's `size`,
    - `size`: mean square of the residual, in units of the activations' deviation,
    - `activations`: squared error to the sample's own activations, in the same units, for the rows of the batch whose
      exact code is known (`has_w_plus`); the other rows count as 0.

    A share `occlusion` of the training images is partly covered after the code was found, and has to come out covered:
    what the code cannot hold is what residuals are for. While training, the number of passes is drawn from 1 to
    `passes` for each batch.
    """

    def __init__(
        self,
        encoder: FeatureEncoder,
        generator: Generator,
        inverter: Inverter,
        losses: Mapping[str, float] | None = None,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_steps: int = 1000,
        passes: int = 2,
        occlusion: float = 0.0,
        ema_decay: float = 0.995,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator: Any = Frozen(generator)  # type: ignore[arg-type]
        self.inverter: Any = Frozen(inverter) if isinstance(inverter, nn.Module) else inverter
        self.losses = {**DEFAULT_WEIGHTS, **(losses or {})}
        self.ema = Ema(encoder, ema_decay)
        self.lr, self.betas, self.weight_decay, self.max_steps = lr, (betas[0], betas[1]), weight_decay, max_steps
        self.passes, self.occlusion = passes, occlusion
        self.identity = IdentityLoss()

    def forward(self, photos: Tensor, w_plus: Tensor) -> Tensor:
        """Photos (B, 3, R, R) and their codes -> residuals (B, C, r, r), by the averaged weights."""
        return predict(self.ema.module, self.generator, w_plus, photos, self.passes).residual

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        passes = int(torch.randint(1, self.passes + 1, ()))
        parts = self._losses(self.encoder, batch, passes)
        total = self._total(parts)
        self.log_training({**parts, "loss": total}, batch_idx)
        return total

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        parts = self._losses(self.ema.module, batch, self.passes)
        self.log_validation({**parts, "loss": self._total(parts)}, len(batch["image"]))

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What to show of a batch: photos, the inversions of their codes, and those with the residual."""
        photos, size = batch["image"], self.encoder.size
        w_plus = self.inverter.invert(photos).w_plus
        residuals = {self.encoder.resolution: self(photos, w_plus)}
        images = {
            "code": self.generator.synthesis(w_plus, size=size).clamp(-1, 1),
            "inverted": self.generator.synthesis(w_plus, size=size, residuals=residuals).clamp(-1, 1),
        }
        return {"photo": resize_area(photos, size), **images}

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            self.encoder.parameters(), self.lr, betas=self.betas, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.max_steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _total(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.losses[name] * value for name, value in parts.items()]).sum()

    def _losses(self, encoder: Any, batch: dict[str, Any], passes: int) -> dict[str, Tensor]:
        photos = batch["image"]
        with torch.no_grad():
            w_plus = self.inverter.invert(photos).w_plus
        if self.training and self.occlusion:
            photos = occlude(photos, probability=self.occlusion)
        residual, base = predict(encoder, self.generator, w_plus, photos, passes)
        target = resize_area(photos, encoder.size)
        image = self.generator.synthesis(w_plus, size=encoder.size, residuals={encoder.resolution: residual})
        return {**self._image_losses(image, target), **self._latent_losses(batch, residual, base)}

    def _image_losses(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        parts = {}
        if self.losses["l2"]:
            parts["l2"] = F.mse_loss(image, target)
        if self.losses["lpips"]:
            parts["lpips"] = lpips_distance("alex", str(target.device))(image.clamp(-1, 1), target).mean()
        if self.losses["identity"]:
            parts["identity"] = self.identity(image, target)
        return parts

    def _latent_losses(self, batch: dict[str, Any], residual: Tensor, base: Tensor) -> dict[str, Tensor]:
        parts, resolution, unit = {}, residual.shape[-1], deviation(base)
        if self.losses["size"]:
            parts["size"] = (residual / unit).square().mean()
        if self.losses["activations"]:
            parts["activations"] = residual.new_zeros(())
            known = batch["has_w_plus"].nonzero().flatten() if "has_w_plus" in batch else []
            if len(known):
                with torch.no_grad():
                    wanted = self.generator.features(batch["w_plus"][known], last=resolution)[resolution]
                error = ((base + residual)[known] - wanted) / unit[known]
                parts["activations"] = error.square().mean() * len(known) / len(residual)
        return parts
