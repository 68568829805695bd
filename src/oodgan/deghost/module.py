"""Training of the deghoster: pixels, perception and a discriminator (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.deghost.discriminator import Discriminator
from oodgan.deghost.losses import PerceptualLoss, discriminator_losses, generator_loss
from oodgan.deghost.network import Deghoster
from oodgan.nn.ema import Ema
from oodgan.nn.resize import resize_area
from oodgan.training.manual import optimise
from oodgan.training.module import FitModule

DEFAULT_WEIGHTS: dict[str, float] = {"l2": 1.0, "l1": 0.0, "perceptual": 0.01, "gan": 0.01}


class DeghostModule(FitModule):
    """Trains a deghoster on ghosts (`oodgan.deghost.ghosts`) against their targets.

    Losses, weighted by `losses`: `l2`, `l1` (pixels), `perceptual` (MSE of VGG16 `features.21`) and `gan` (vanilla,
    with a StyleGAN2 discriminator; 0 trains without one). `network` is the published `Deghoster`, which sees the coarse
    image alone, or a `LightDeghoster`. The network's optimiser owns `global_step`. The perceptual loss is taken at
    `perceptual_size` pixels where given: VGG16 at 256 px costs more than everything else together.
    """

    automatic_optimization = False

    def __init__(
        self,
        network: nn.Module,
        discriminator: Discriminator | None = None,
        losses: Mapping[str, float] | None = None,
        lr: float = 1e-4,
        lr_discriminator: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        max_steps: int = 1000,
        ema_decay: float = 0.995,
        perceptual_size: int | None = None,
    ) -> None:
        super().__init__()
        self.perceptual_size = perceptual_size
        self.network, self.losses = network, {**DEFAULT_WEIGHTS, **(losses or {})}
        self.discriminator = discriminator if self.losses["gan"] else None
        self.ema = Ema(network, ema_decay)
        # 1 x the loss here: its weight is applied with the others. In a list, it stays out of the checkpoint.
        self._perceptual = [PerceptualLoss(weight=1.0)] if self.losses["perceptual"] else []
        self.lr, self.lr_discriminator = lr, lr_discriminator or lr
        self.betas, self.max_steps = (betas[0], betas[1]), max_steps

    def on_fit_start(self) -> None:
        for part in self._perceptual:
            part.to(self.device)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """A batch of ghosts -> fine images, by the averaged weights."""
        return fine(self.ema.module, batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimisers = self.optimizers()
        first, second = optimisers if isinstance(optimisers, list) else (optimisers, None)
        logged: dict[str, Tensor] = {}
        result = fine(self.network, batch)
        target = resize_area(batch["target"], result.shape[-1])

        def loss() -> Tensor:
            logged.update(self._losses(result, target))
            return torch.stack([self.losses[name] * value for name, value in logged.items()]).sum()

        logged["loss"] = optimise(self, first, loss, batch_idx)
        if second is not None:
            logged["discriminator"] = optimise(
                self, second, lambda: self._discriminate(target, result.detach()), batch_idx, counts=False
            )
        self.log_training(logged, batch_idx)
        if (batch_idx + 1) % getattr(self.trainer, "manual_accumulate", 1) == 0:
            schedules: Any = self.lr_schedulers()
            for schedule in schedules if isinstance(schedules, list) else [schedules]:
                schedule.step()

    def validation_step(self, batch: dict[str, Any], _: int) -> dict[str, Tensor]:
        result = self(batch)
        target, coarse = (resize_area(batch[key], result.shape[-1]) for key in ("target", "coarse"))
        values = {"l2": F.mse_loss(result, target), "l2_coarse": F.mse_loss(coarse, target)}
        if self._perceptual:
            values["perceptual"] = self._perceive(result, target)
            values["perceptual_coarse"] = self._perceive(coarse, target)
        values["loss"] = self.losses["l2"] * values["l2"] + self.losses["perceptual"] * values.get(
            "perceptual", torch.zeros_like(values["l2"])
        )
        self.log_validation(values, len(result))
        return {"target": target, "result": result}

    def configure_optimizers(self) -> Any:
        def adam(network: nn.Module, lr: float) -> torch.optim.Optimizer:
            return torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr, betas=self.betas)

        optimisers = [adam(self.network, self.lr)]
        if self.discriminator is not None:
            optimisers.append(adam(self.discriminator, self.lr_discriminator))
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, self.max_steps) for o in optimisers]
        return optimisers, schedules

    def _losses(self, result: Tensor, target: Tensor) -> dict[str, Tensor]:
        found = {}
        if self.losses["l2"]:
            found["l2"] = F.mse_loss(result, target)
        if self.losses["l1"]:
            found["l1"] = F.l1_loss(result, target)
        if self._perceptual:
            found["perceptual"] = self._perceive(result, target)
        if self.discriminator is not None:
            found["gan"] = generator_loss(self.discriminator(result), weight=1.0)
        return found

    def _perceive(self, result: Tensor, target: Tensor) -> Tensor:
        size = self.perceptual_size or result.shape[-1]
        return self._perceptual[0](resize_area(result, size), resize_area(target, size))

    def _discriminate(self, real: Tensor, fake: Tensor) -> Tensor:
        assert self.discriminator is not None
        on_real, on_fake = discriminator_losses(self.discriminator(real), self.discriminator(fake))
        return on_real + on_fake


def fine(network: Any, batch: dict[str, Any]) -> Tensor:
    """Run a deghoster of either kind on a batch of ghosts."""
    inner = getattr(network, "module", network)
    if isinstance(inner, Deghoster):
        return network(resize_area(batch["coarse"], inner.in_size))
    return network(*(batch[key] for key in ("coarse", "photo", "inverted", "edited", "mask", "code")))
