"""Measurements during Diff-CAM training: confusion of directions, and location of the maps."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from oodgan.diffcam.pairs import PairRenderer
from oodgan.generators.protocol import sample_codes
from oodgan.metrics.masks import MaskIoU, MaskShareInside
from oodgan.metrics.regions import ConsistentChange, activations
from oodgan.paths import FitFolder
from oodgan.tracking import wandb as tracker
from oodgan.training.validations import EveryNthValidation

_HELD_OUT = 2**40  # seeds that no training draws from
_SIDE = 64  # pixels of masks and regions


class ConfusionMatrix(pl.Callback):
    """Writes counts of (true direction, predicted direction) at each validation to `confusion.csv`, and to wandb if on.

    Args:
        names: names of the directions, in class order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.matrix = MulticlassConfusionMatrix(len(self.names))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.matrix.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if isinstance(outputs, Mapping) and {"scores", "label"} <= set(outputs):
            self.matrix.update(outputs["scores"].detach(), outputs["label"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = self.matrix.compute().cpu()
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        path = FitFolder(Path(trainer.default_root_dir)).confusion
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["true \\ predicted", *self.names])
            writer.writerows([name, *row] for name, row in zip(self.names, counts.tolist(), strict=True))
        shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
        picture = Image.fromarray((shares * 255).round().byte().numpy())
        tracker.log_images(
            {"confusion": picture.resize((16 * len(counts),) * 2, Image.Resampling.NEAREST)}, None, trainer
        )


class MaskQuality(EveryNthValidation):
    """Logs the overlap of Diff-CAM's maps with the regions that edits change, on held-out samples.

    `val/mask_share_inside` is the share of a map's mass inside the 15 % of the picture where the edit changes all
    samples in the same way (`oodgan.metrics.regions`), `val/mask_iou_at_0.5` the overlap of the map at 0.5 with them.
    The samples are divided among the processes; sums and counts are added up.

    Args:
        renderer: draws and edits the samples.
        samples: number of samples, each edited along every direction; rendered once.
        every: measure every n-th validation, and the last.
    """

    def __init__(self, renderer: PairRenderer, samples: int = 2, every: int = 1) -> None:
        super().__init__(every)
        self.renderer, self.samples = renderer, samples
        self._metrics = (MaskShareInside(), MaskIoU())
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._regions = torch.zeros(0)

    @torch.no_grad()
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        bank, generator = self.renderer.bank, self.renderer.generator
        changes = [ConsistentChange(_SIDE) for _ in bank.names]
        for i in range(self.samples):
            code = sample_codes(generator, 1, _HELD_OUT + i, 0.7)
            inverted = self.renderer.render(code)
            edited = torch.cat([self.renderer.render(code + vector.to(code)) for vector in bank.vectors])
            before = activations(inverted)
            for change, image in zip(changes, edited, strict=True):
                change.add(before, activations(image[None]))
            if i % trainer.world_size == trainer.global_rank:
                self._pairs.append((inverted, edited))
        self._regions = torch.stack([change.region() for change in changes])[:, None]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.due(trainer):
            return
        network: Any = pl_module.averaged
        classes = torch.arange(len(self._regions), device=pl_module.device)
        for metric in self._metrics:
            metric.to(pl_module.device).reset()
        for inverted, edited in self._pairs:
            pair = (inverted.to(pl_module.device), edited.to(pl_module.device))
            with torch.no_grad():
                masks = network.cam(*pair, classes=classes, size=_SIDE)[:, None]
            for metric in self._metrics:
                metric.update(masks, self._regions.to(masks))
        for metric in self._metrics:
            pl_module.log(f"val/{metric.name}", metric.compute().to(torch.get_default_dtype()), sync_dist=True)
