"""Training of the face parser on photos with parsing masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from oodgan.errors import UserError
from oodgan.parsing.augment import varied
from oodgan.parsing.classes import NAMES, UNKNOWN, merged
from oodgan.parsing.parser import coloured
from oodgan.training.module import Config, FitModule

LOSSES: Config = {
    "cross_entropy": {"_target_": "torch.nn.CrossEntropyLoss"},
    "dice": {"_target_": "oodgan.parsing.losses.DiceLoss", "weight": 0.5},
}


class ParserModule(FitModule):
    """Classifies the pixels of aligned faces; logs IoU of each class (`val/iou_hair`) and their mean (`val/miou`).

    A batch has `image` (B, 3, S, S) in [-1, 1] and `parsing` (B, S, S) with CelebAMask-HQ's numbers. Losses are called
    with `scores` (B, K, S, S) and `classes` (B, S, S). IoU is computed over all images of a validation, for any number
    of processes; a class without pixels has none.

    Args:
        augment: keywords of `oodgan.parsing.augment.varied`; None trains on the photos as they are.
        others: as of `FitModule`; cross-entropy and Dice when `losses` is None.
    """

    loss_inputs = ("scores", "classes")
    measured = ("miou", "iou_*")

    def __init__(
        self,
        network: nn.Module | Config,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = 0.998,
        augment: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(network, losses or LOSSES, optimizer, scheduler, ema_decay)
        self.augment = None if augment is None else dict(augment)
        self.confusion = MulticlassConfusionMatrix(len(NAMES), ignore_index=UNKNOWN)

    def forward(self, images: Tensor) -> Tensor:
        """Photos (B, 3, S, S) -> scores (B, K, S, S), by the averaged weights."""
        return _scores(self.averaged, images)

    def predictions(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        images, classes = batch["image"], _classes(batch)
        if self.training and self.augment is not None:
            images, classes = varied(images, classes, **self.augment)
        return {"scores": _scores(network, images), "classes": classes}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        known = super().validation_step(batch, batch_idx)
        self.confusion.update(known["scores"], known["classes"])
        return known

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.confusion.reset()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        by_class = ious(self.confusion.compute())
        for name, value in {**by_class, "miou": torch.stack(list(by_class.values())).mean()}.items():
            # Equal on all processes already: the mean that sync_dist takes changes nothing.
            self.log(f"val/{name}", value, prog_bar=name == "miou", sync_dist=True)

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Images to show of a batch: photos, predicted classes, and true classes."""
        predicted = self(batch["image"]).argmax(1)
        return {"photo": batch["image"], "result": coloured(predicted), "target": coloured(_classes(batch))}


def ious(confusion: Tensor) -> dict[str, Tensor]:
    """`iou_CLASS` of counts (K, K), true by predicted; without the classes that are neither there nor predicted."""
    counts = confusion.float()
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    return {f"iou_{name}": right[i] / union[i] for i, name in enumerate(NAMES) if union[i] > 0}


def _scores(network: nn.Module, images: Tensor) -> Tensor:
    return F.interpolate(network(images).float(), images.shape[-2:], mode="bilinear", align_corners=False)


def _classes(batch: Mapping[str, Any]) -> Tensor:
    if "parsing" not in batch:
        raise UserError(
            "the parser is trained on photos with parsing masks, and these have none: set data.source.parsing"
        )
    known = batch.get("has_parsing")
    classes = merged(batch["parsing"])
    return classes if known is None else torch.where(known[:, None, None], classes, UNKNOWN)
