"""Training of Diff-CAM: classify the edit from the difference of features (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from oodgan.training.module import Config, FitModule

LOSSES: Config = {"cross_entropy": {"_target_": "torch.nn.CrossEntropyLoss"}}


class DiffCAMModule(FitModule):
    """Classifies edits into the directions; logs accuracy.

    A batch has `label` (B,), and either `inverted` and `edited` (B, 3, n, n) in [-1, 1], or, where only the head
    trains, `pooled` features (B, C). Losses are called with `scores` (B, K), one for each direction, and `label`.
    Arguments are those of `FitModule`; cross-entropy when `losses` is None.
    """

    loss_inputs = ("scores", "label")
    measured = ("accuracy", "mask_*")  # the masks by `callbacks.MaskQuality`

    def __init__(
        self,
        network: nn.Module | Config,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__(network, losses or LOSSES, optimizer, scheduler, ema_decay)

    def forward(self, inverted: Tensor, edited: Tensor) -> Tensor:
        return self.averaged(inverted, edited)

    def predictions(self, network: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        pooled = "pooled" in batch
        scores = network.fc(batch["pooled"]) if pooled else network(batch["inverted"], batch["edited"])
        return {"scores": scores, "label": batch["label"]}

    def measures(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = known["scores"]
        return {"accuracy": multiclass_accuracy(scores, known["label"], scores.shape[1], average="micro")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save only trained tensors: the frozen layers are those of a known network."""
        super().on_save_checkpoint(checkpoint)
        frozen = self._frozen_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        frozen = self._frozen_names()
        kept = {name: value for name, value in self.state_dict().items() if name in frozen}
        return super().load_state_dict({**kept, **state_dict}, strict, assign)

    def _frozen_names(self) -> set[str]:
        network: Any = self.network
        names = network.state_dict().keys() - network.trained_state().keys()
        return {f"{owner}.{name}" for owner in ("network", "ema.module") for name in names}
