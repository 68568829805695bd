"""Training of the network that decides how residuals follow an edit (`oodgan.inversion.transfer_network`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.generators.protocol import Generator
from oodgan.inversion.feature import deviation
from oodgan.inversion.layers import covered
from oodgan.inversion.transfer import follow
from oodgan.nn.frozen import Frozen
from oodgan.training.module import Config, FitModule, built, count_of

LOSSES: Config = {
    "l2": {"_target_": "torch.nn.MSELoss", "weight": 2.0},
    "lpips": {"_target_": "oodgan.metrics.lpips.LPIPSLoss", "weight": 1.0},
    "identity": {"_target_": "oodgan.nn.facenet.IdentityLoss", "weight": 0.3},
    "attributes": {"_target_": "oodgan.directions.losses.AttributeLoss", "weight": 0.1},
    "size": {"_target_": "oodgan.inversion.losses.ResidualLoss", "weight": 0.01},
}


class TransferModule(FitModule):
    """Trains a transfer network on inverted samples whose edited image is known (`transfer_samples`).

    Losses may ask for

    - `result` and `target`: the edited inversion with the network's residual, and the true edited image,
      (B, 3, S, S) in [-1, 1], S being the samples' size,
    - `residual` (B, C, r, r): what the network changed of the residual, in units of the activations' deviation.

    Every loss of the unchanged residual is logged too (`val/NAME_whole`): what the network has to be better than.
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
        return {"result": self._edited(batch, residual), "target": self._target(batch), "residual": change}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        known = super().validation_step(batch, batch_idx)
        whole = {
            **known,
            "result": self._edited(batch, batch["residual"]),
            "residual": torch.zeros_like(known["residual"]),
        }
        values = self.losses(whole)
        self.log_validation({f"{name}_whole": value for name, value in values.items()}, count_of(known))
        return known

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What to show of a batch: the unchanged residual's image, the network's, and the true one."""
        known = self.predictions(self.averaged, batch)
        return {
            "whole": self._edited(batch, batch["residual"]).clamp(-1, 1),
            "learned": known["result"].clamp(-1, 1),
            "true": known["target"],
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
    def _target(self, batch: dict[str, Any]) -> Tensor:
        edited = self.generator.synthesis(batch["code"] + batch["step"], size=batch["layer"].shape[-1])
        return covered(edited, batch)
