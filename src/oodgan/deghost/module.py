"""Training of the deghoster with pixel, perceptual and adversarial losses (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.nn.resize import resize_area
from oodgan.training.module import LOGITS, Config, FitModule, count_of

LOSSES: Config = {
    "l2": {"_target_": "torch.nn.MSELoss"},
    "perceptual": {"_target_": "oodgan.deghost.losses.PerceptualLoss", "weight": 0.01},
    "gan": {"_target_": "oodgan.deghost.losses.GeneratorLoss", "weight": 0.01},
}
DISCRIMINATOR_LOSS: Config = {"_target_": "oodgan.deghost.losses.discriminator_loss", "_partial_": True}


class DeghostModule(FitModule):
    """Trains a deghoster on ghosts (`oodgan.deghost.ghosts`) against their targets.

    Losses may use `result`, `target`, `coarse` and everything in the batch. `network` is a deghoster
    (`oodgan.deghost.protocol.DeghosterNetwork`). Every loss of the coarse image itself is logged too
    (`val/NAME_coarse`): what the network has to be better than. In rows whose target is not known (`known` is 0),
    losses that compare the result with the target are 0. Arguments are those of `FitModule`; `losses` are the
    published ones when None.
    """

    measured = ("*_coarse",)

    def __init__(
        self,
        network: nn.Module | Config,
        discriminator: nn.Module | Config | None = None,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = 0.995,
        discriminator_optimizer: Config | Callable[..., Any] | None = None,
        discriminator_loss: Config | Callable[..., Tensor] = DISCRIMINATOR_LOSS,
    ) -> None:
        adversary = (discriminator, discriminator_optimizer, discriminator_loss)
        super().__init__(network, losses or LOSSES, optimizer, scheduler, ema_decay, *adversary)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """A batch of ghosts -> fine images, by the averaged weights."""
        return fine(self.averaged, batch)

    def predictions(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        result = fine(network, batch)
        target, coarse = (resize_area(batch[key], result.shape[-1]) for key in ("target", "coarse"))
        return {"result": result, "target": _where_known(batch, target, result.detach()), "coarse": coarse}

    def real(self, known: Mapping[str, Tensor]) -> Tensor:
        """The target; the photo where it is not known."""
        return _where_known(known, known["target"], resize_area(known["photo"], known["target"].shape[-1]))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        known = super().validation_step(batch, batch_idx)
        target = _where_known(known, known["target"], known["coarse"])
        untreated = self.losses(
            {**known, "result": known["coarse"], "target": target}, self.losses.named(without=LOGITS)
        )
        self.log_validation({f"{name}_coarse": value for name, value in untreated.items()}, count_of(known))
        return known


def _where_known(batch: Mapping[str, Any], images: Tensor, others: Tensor) -> Tensor:
    """`images`, and `others` in the rows whose target is not known."""
    if "known" not in batch:
        return images
    return torch.where(batch["known"].reshape(-1, 1, 1, 1) > 0, images, others)


def fine(network: Any, batch: dict[str, Any]) -> Tensor:
    """Run a deghoster on a batch of ghosts."""
    return network(*(batch[key] for key in ("coarse", "photo", "inverted", "edited", "mask", "code")))
