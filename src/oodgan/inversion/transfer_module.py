"""Training of the network that predicts the residual after an edit (`oodgan.inversion.transfer_network`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import Generator
from oodgan.inversion.feature import deviation
from oodgan.inversion.layers import covered
from oodgan.inversion.transfer import follow
from oodgan.nn.frozen import Frozen
from oodgan.training.module import Config, FitModule, built, count_of

LOSSES: Config = {
    "l2": {"_target_": "torch.nn.MSELoss", "weight": 2.0},
    "lpips": {"_target_": "oodgan.metrics.lpips.LPIPSLoss", "weight": 1.0},
    "identity": {"_target_": "oodgan.nn.facenet.IdentityLoss", "weight": 0.3, "inputs": ["result", "truth"]},
    "attributes": {"_target_": "oodgan.directions.losses.AttributeLoss", "weight": 0.1},
    "change": {"_target_": "oodgan.directions.losses.ChangeLoss", "weight": 0.5},
    "size": {"_target_": "oodgan.inversion.losses.ResidualLoss", "weight": 0.01},
}


class TransferModule(FitModule):
    """Trains a transfer network on inverted samples whose edited image is known, and on photos (`transfer_samples`).

    Losses may ask for, as images (B, 3, S, S) in [-1, 1], S being the samples' size,

    - `result`: the edited inversion with the network's residual,
    - `truth`: the true edited image; of a photo, the photo,
    - `target`: the truth; of a photo, the result itself where the edit changes the activations, and else the photo,
    - `photo`, `inverted` and `edited` for `oodgan.directions.losses.ChangeLoss`: the target change is that of the
    truth,
      and for photos that of the codes without residuals,

    and for
    - `residual` (B, C, r, r): what the network changed of the residual, in units of the activations' deviation.

    Every loss is also logged for the unchanged residual (`val/NAME_whole`), the baseline of the network.
    """

    networks = ("network", "generator", "discriminator")

    def __init__(
        self,
        network: nn.Module | Config,
        generator: Generator | Config,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = 0.995,
    ) -> None:
        super().__init__(network, losses or LOSSES, optimizer, scheduler, ema_decay)
        self.generator: Any = Frozen(built(generator))

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """A batch of samples with their edit -> residuals (B, C, r, r), by the averaged weights."""
        before, after = self._activations(batch)
        return follow(self.averaged, batch["residual"], before, after)

    def predictions(self, network: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        before, after = self._activations(batch)
        residual = follow(network, batch["residual"], before, after)
        change = (residual - batch["residual"]) / deviation(before)
        moved = self.network.activity((after - before) / deviation(before))
        return {**self._images(batch, residual, moved), "residual": change, "moved": moved}

    def _images(self, batch: dict[str, Any], residual: Tensor, moved: Tensor) -> dict[str, Tensor]:
        result, truth = self._edited(batch, residual), self._truth(batch)
        known = {"result": result, "truth": truth}
        unknown = batch["alpha"].amin((1, 2, 3)) == 1  # an opaque layer: a photo
        free = F.interpolate(moved, result.shape[-2:], mode="bilinear") * unknown[:, None, None, None]
        known["target"] = truth + free * (result.detach() - truth)
        if self.losses.need("edited"):
            known |= self._wanted_change(batch, truth, unknown)
        return known

    @torch.no_grad()
    def _wanted_change(self, batch: dict[str, Any], truth: Tensor, unknown: Tensor) -> dict[str, Tensor]:
        size = batch["layer"].shape[-1]
        photo = covered(self.generator.synthesis(batch["code"], size=size), batch)
        inverted, edited = photo.clone(), truth.clone()
        if unknown.any():
            codes = batch["w_plus"][unknown]
            inverted[unknown] = self.generator.synthesis(codes, size=size).to(photo.dtype)
            edited[unknown] = self.generator.synthesis(codes + batch["step"][unknown], size=size).to(photo.dtype)
        return {"photo": photo, "inverted": inverted, "edited": edited}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        known = super().validation_step(batch, batch_idx)
        unchanged = self._images(batch, batch["residual"], known["moved"])
        values = self.losses({**known, **unchanged, "residual": torch.zeros_like(known["residual"])})
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
        size, residuals = batch["layer"].shape[-1], {residual.shape[-1]: residual}
        return self.generator.synthesis(batch["w_plus"] + batch["step"], size=size, residuals=residuals)

    @torch.no_grad()
    def _truth(self, batch: dict[str, Any]) -> Tensor:
        edited = self.generator.synthesis(batch["code"] + batch["step"], size=batch["layer"].shape[-1])
        return covered(edited, batch)
