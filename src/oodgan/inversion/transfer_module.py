"""Training of the network that predicts the residual after an edit (`oodgan.inversion.transfer_network`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import Generator, Residuals
from oodgan.inversion.feature import deviation
from oodgan.inversion.layers import covered
from oodgan.inversion.transfer import follow
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import blur, resize_area
from oodgan.training.module import Config, FitModule, built, count_of

LOSSES: Config = {
    "l2": {"_target_": "torch.nn.MSELoss", "weight": 2.0},
    "lpips": {"_target_": "oodgan.metrics.lpips.LPIPSLoss", "weight": 1.0},
    "identity": {"_target_": "oodgan.nn.facenet.IdentityLoss", "weight": 0.3, "inputs": ["result", "truth"]},
    "attributes": {"_target_": "oodgan.directions.losses.AttributeLoss", "weight": 0.1},
    "change": {"_target_": "oodgan.directions.losses.ChangeLoss", "weight": 0.25},
    "size": {"_target_": "oodgan.inversion.losses.ResidualLoss", "weight": 0.01},
}


class TransferModule(FitModule):
    """Trains a transfer network on inverted samples whose edited image is known, and on photos (`transfer_samples`).

    Losses may ask for, as images (B, 3, S, S) in [-1, 1], S being the samples' size,

    - `result`: the edited inversion with the network's residual,
    - `truth`: the true edited image; of a photo, the photo,
    - `target`: the truth; of a photo, where the edit changes the activations most, the edited image of the code alone,
      in the photo's colours and light (its blurred difference from the photo is added), and elsewhere the photo,
    - `photo`, `inverted` and `edited` for `oodgan.directions.losses.ChangeLoss`: the target change is that of the
      truth, and for photos that of the codes without residuals,

    and for

    - `residual` (B, C, r, r): what the network changed of the residual, in units of the activations' deviation.

    With `exact`, images of the generator are full images, reduced to S, instead of previews.

    Every loss is also logged for the unchanged residual (`val/NAME_whole`), the baseline of the network.
    """

    networks = ("network", "generator", "discriminator")
    measured = ("*_whole",)

    def __init__(
        self,
        network: nn.Module | Config,
        generator: Generator | Config,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = 0.995,
        exact: bool = False,
    ) -> None:
        super().__init__(network, losses or LOSSES, optimizer, scheduler, ema_decay)
        self.generator: Any = Frozen(built(generator))
        self.exact = exact

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """A batch of samples with their edit -> residuals (B, C, r, r), by the averaged weights."""
        before, after = self._activations(batch)
        return follow(self.averaged, batch["residual"], before, after)

    def predictions(self, network: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        before, after = self._activations(batch)
        residual = follow(network, batch["residual"], before, after)
        change = (residual - batch["residual"]) / deviation(before)
        moved = self.network.activity((after - before) / deviation(before))
        return {"result": self._edited(batch, residual), "residual": change, **self._targets(batch, moved)}

    @torch.no_grad()
    def _targets(self, batch: dict[str, Any], moved: Tensor) -> dict[str, Tensor]:
        """All images but the result; `moved` (B, 1, r, r) is how much the edit changes the activations."""
        size = batch["layer"].shape[-1]
        codes = torch.cat([batch["code"], batch["code"] + batch["step"]])
        plain, edited = self._image(codes, size).clamp(-1, 1).chunk(2)
        photo, truth = covered(plain, batch), covered(edited, batch)
        is_photo = batch["alpha"].amin((1, 2, 3), keepdim=True) == 1  # an opaque layer
        redrawn = F.interpolate(most_changed(moved), (size, size), mode="bilinear") * is_photo
        natural = edited + blur(photo - plain, size // 32)
        return {
            "photo": photo,
            "truth": truth,
            "target": truth + redrawn * (natural - truth),
            "inverted": torch.where(is_photo, plain, photo),
            "edited": torch.where(is_photo, edited, truth),
        }

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        known = super().validation_step(batch, batch_idx)
        unchanged = {"result": self._edited(batch, batch["residual"]), "residual": torch.zeros_like(known["residual"])}
        values = self.losses({**known, **unchanged})
        self.log_validation({f"{name}_whole": value for name, value in values.items()}, count_of(known))
        return known

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Images to show: with unchanged residual, with the network's, and the truth (for a photo, the photo)."""
        known = self.predictions(self.averaged, batch)
        return {
            "whole": self._edited(batch, batch["residual"]).clamp(-1, 1),
            "learned": known["result"].clamp(-1, 1),
            "true": known["truth"],
        }

    def _activations(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of the code alone, before and after the edit."""
        resolution = batch["residual"].shape[-1]
        with torch.no_grad():
            codes = torch.cat([batch["w_plus"], batch["w_plus"] + batch["step"]])
            before, after = self.generator.features(codes, last=resolution)[resolution].chunk(2)
            return before, after

    def _edited(self, batch: dict[str, Any], residual: Tensor) -> Tensor:
        return self._image(batch["w_plus"] + batch["step"], batch["layer"].shape[-1], {residual.shape[-1]: residual})

    def _image(self, codes: Tensor, size: int, residuals: Residuals | None = None) -> Tensor:
        image = self.generator.synthesis(codes, size=None if self.exact else size, residuals=residuals)
        return resize_area(image, size)


def most_changed(moved: Tensor) -> Tensor:
    """How much an edit changes each position (B, 1, r, r) -> 1 where it changes most, 0 where little, of that shape."""
    high = moved.flatten(1).quantile(0.99, dim=1)[:, None, None, None].clamp(min=1e-6)
    return ((moved / high - 0.4) / 0.3).clamp(0, 1)
