"""Training of Diff-CAM: name the edit from the difference of features (paper, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.diffcam.network import DiffCAM
from oodgan.training.module import FitModule


class DiffCAMModule(FitModule):
    """Cross-entropy over the directions; logs accuracy.

    A batch holds `label` (B,), and either `inverted` and `edited` (B, 3, n, n) in [-1, 1], or, where only the head
    trains, `pooled` features (B, C).
    """

    def __init__(
        self,
        network: DiffCAM,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_steps: int = 1000,
    ) -> None:
        super().__init__()
        self.network = network
        self.lr, self.betas, self.weight_decay, self.max_steps = lr, (betas[0], betas[1]), weight_decay, max_steps

    def forward(self, inverted: Tensor, edited: Tensor) -> Tensor:
        return self.network(inverted, edited)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        logits = self._logits(batch)
        loss = F.cross_entropy(logits, batch["label"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        self.log_training({"loss": loss, "accuracy": accuracy}, batch_idx)
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        logits = self._logits(batch)
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        values = {"loss": F.cross_entropy(logits, batch["label"]), "accuracy": accuracy}
        self.log_validation(values, len(logits))

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, self.lr, betas=self.betas, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.max_steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {f"network.{name}" for name in self.network.trained_state()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self.network.load_trained({k.removeprefix("network."): v for k, v in state_dict.items()})

    def _logits(self, batch: dict[str, Any]) -> Tensor:
        return self.network.fc(batch["pooled"]) if "pooled" in batch else self(batch["inverted"], batch["edited"])
