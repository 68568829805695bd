"""Image sheets of a network's results during training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from oodgan.data.images import to_pil
from oodgan.files import replacing
from oodgan.paths import FitFolder
from oodgan.tracking import wandb as tracker
from oodgan.tracking.sheet import sheet

COLUMNS = ("photo", "inverted", "edited", "coarse", "result", "target")


class Pictures(pl.Callback):
    """Writes a sheet of images at each validation to the run's folder (`validation.png`) and to wandb if it is on.

    Shows the images of `module.pictures(batch)`, {name: (B, 3, H, W) in [-1, 1]}, or else those of the batch and of the
    validation step's result whose names are in `COLUMNS`. A `photo` with `mask` (B, 1, H, W) is logged to wandb with
    the mask as overlay. Batches without images are skipped.

    Args:
        count: pictures of the first validation batch.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero or not isinstance(batch, Mapping):
            return
        first = self._first(batch)
        shown = self._shown(pl_module, outputs, first)
        if not shown:
            return
        rows = [[to_pil(image) for image in row] for row in zip(*shown.values(), strict=True)]
        picture = sheet(rows, list(shown), size=max(64, min(256, rows[0][0].width)))
        with replacing(FitFolder(Path(trainer.default_root_dir)).picture) as temporary:
            picture.save(temporary, "PNG")
        tracker.log_images({"validation": picture}, trainer.global_step, trainer)
        if {"photo", "mask"} <= set(first):
            tracker.log_mask("mask", first["photo"][0], first["mask"][0], trainer=trainer)

    def _shown(self, module: Any, outputs: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if hasattr(module, "pictures"):
            images = module.pictures(batch)
        else:
            images = batch | (self._first(outputs) if isinstance(outputs, Mapping) else {})
        return {name: images[name].float() for name in COLUMNS if name in images and images[name].ndim == 4}

    def _first(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        return {key: value[: self.count].detach() for key, value in values.items() if isinstance(value, Tensor)}
