"""A callback of Lightning's."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class GradientNorm(pl.Callback):
    """Logs the norm of the trained network's gradient as `train/gradient`, each n-th step."""

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        if trainer.global_step % self.every == 0:
            squares = [p.grad.square().sum() for p in module.network.parameters() if p.grad is not None]
            module.log("train/gradient", sum(squares).sqrt())
