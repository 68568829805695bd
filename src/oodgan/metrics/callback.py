"""Metrics while training: any module whose validation step returns its result and target."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from oodgan.errors import UserError
from oodgan.metrics.distribution import FID, KID
from oodgan.metrics.registry import build


class ImageMetrics(pl.Callback):
    """Logs metrics of `{"target", "result"}`, two batches (B, 3, H, W) in [-1, 1], at the end of each validation.

    A metric over further inputs (`labels`, `mask`, `region`) takes them from the same dictionary.  Every process
    computes the same number from all shards, uneven ones too, and all log it, so that checkpoints can follow it.
    Networks belong to no module: they enter neither checkpoints nor optimisers.

    Args:
        metrics: names known to `oodgan.metrics.registry`; FID and KID are two more, slow ones.
        prefix: what the logged names begin with.
        every: only each n-th validation is measured, the first one included.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("lpips_alex_v0.1", "ssim_gauss11"),
        prefix: str = "val/",
        every: int = 1,
    ):
        if every < 1:
            raise UserError(f"every={every} must be at least 1")
        self.metrics: dict[str, Metric] = {name: build(name) for name in metrics}
        self.prefix, self.every = prefix, every
        self._active, self._seen, self._validations = False, 0, 0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._active = not trainer.sanity_checking and self._validations % self.every == 0
        self._validations += not trainer.sanity_checking
        self._seen = 0
        for metric in self.metrics.values():
            metric.to(pl_module.device)
            metric.reset()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._active:
            return
        images = self._images(pl_module, outputs)
        count = len(images["result"])
        # The unpadded sampler gives process r the images r, r + n, r + 2n, ...
        places = (self._seen + torch.arange(count)) * trainer.world_size + trainer.global_rank
        self._seen += count
        for name, metric in self.metrics.items():
            if isinstance(metric, KID):
                metric.update(images["target"], True, places)
                metric.update(images["result"], False, places)
            elif isinstance(metric, FID):
                metric.update(images["target"], real=True)
                metric.update(images["result"], real=False)
            else:
                metric.update(*(self._input(images, name, key) for key in metric.inputs))  # type: ignore[union-attr]

    @staticmethod
    def _images(module: pl.LightningModule, outputs: Any) -> dict[str, Tensor]:
        if not isinstance(outputs, Mapping) or not {"target", "result"} <= set(outputs):
            found = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            step = f"{type(module).__name__}.validation_step"
            raise UserError(f"ImageMetrics needs {step} to return 'target' and 'result', got {found}")
        return {key: value.detach() for key, value in outputs.items() if isinstance(value, Tensor)}

    @staticmethod
    def _input(images: dict[str, Tensor], metric: str, key: str) -> Tensor:
        if key not in images:
            raise UserError(f"the metric {metric} needs {key!r} from the validation step, got {sorted(images)}")
        return images[key]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._active:
            return
        for name, metric in self.metrics.items():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                value = metric.compute()
            # Equal on all processes already: the mean that sync_dist takes changes nothing.
            pl_module.log(self.prefix + name, value.float(), sync_dist=True)
