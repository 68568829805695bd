"""Image metrics during training, for any module whose validation step returns result and target."""

from __future__ import annotations

import inspect
import logging
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
from oodgan.training.validations import EveryNthValidation

log = logging.getLogger("oodgan")


class ImageMetrics(EveryNthValidation):
    """Logs metrics of `{"target", "result"}`, two batches (B, 3, H, W) in [-1, 1], at the end of validations.

    Further inputs of a metric (`labels`, `mask`, `region`) come from the same dictionary. Images whose `known` (B,) is
    0 have no target to compare with and are left out (a metric without any image is nan). Every process computes and
    logs the same number from all shards, uneven ones too, so that checkpoints can monitor it. Networks of metrics are
    not submodules: they are not in checkpoints and optimisers. Modules whose validation produces no images (regression
    of codes, classification) are skipped with one log message.

    Args:
        metrics: names known to `oodgan.metrics.registry`, or {key: metric}: ours, logged under their own names, which
            fix network and version, or any of torchmetrics that is updated with (result, target), or like its FID with
            (images, real), logged under its key. None leaves one out.
        prefix: prefix of the logged names.
        every: measure every n-th validation, and the last.
    """

    def __init__(
        self,
        metrics: Sequence[str] | Mapping[str, Metric | None] = ("lpips_alex_v0.1", "ssim_gauss11"),
        prefix: str = "val/",
        every: int = 1,
    ):
        super().__init__(every)
        given = metrics if isinstance(metrics, Mapping) else {name: build(name) for name in metrics}
        self.metrics = {getattr(m, "name", key): m for key, m in given.items() if m is not None}
        self.prefix = prefix
        self._active, self._seen, self._reported = False, 0, False
        self._targets: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._active, self._seen = self.due(trainer), 0
        for metric in self.metrics.values():
            metric.to(pl_module.device)
            metric.reset()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not self._active:
            return
        if not isinstance(outputs, Mapping) or not {"target", "result"} <= set(outputs):
            self._without_images(pl_module, outputs)
            return
        images = {key: value.detach() for key, value in outputs.items() if isinstance(value, Tensor)}
        count = len(images["result"])
        # The unpadded sampler gives process r the images r, r + n, r + 2n, ...
        places = (self._seen + torch.arange(count)) * trainer.world_size + trainer.global_rank
        self._seen += count
        if "known" in images:
            rows = images["known"].reshape(-1) > 0
            images = {key: value[rows] for key, value in images.items() if value.dim() and len(value) == count}
            places = places[rows.cpu()]
        if not len(images["result"]):
            return
        for name, metric in self.metrics.items():
            if isinstance(metric, KID):
                metric.update(self._target_features(name, metric, images["target"], batch_idx), True, places)
                metric.update(images["result"], False, places)
            elif isinstance(metric, FID):
                metric.update(self._target_features(name, metric, images["target"], batch_idx), real=True)
                metric.update(images["result"], real=False)
            elif "real" in inspect.signature(metric.update).parameters:
                metric.update(images["target"], real=True)
                metric.update(images["result"], real=False)
            else:
                inputs = getattr(metric, "inputs", ("result", "target"))
                metric.update(*(self._input(images, name, key) for key in inputs))

    def _target_features(self, name: str, metric: FID | KID, target: Tensor, batch_idx: int) -> Tensor:
        """Return the features of the targets, which are the same at every validation and therefore computed once."""
        sums = torch.stack([target.double().sum(), target.double().square().sum()]).cpu()
        known = self._targets.get((name, batch_idx))
        if known is None or not torch.equal(known[0], sums):
            known = sums, metric.extractor(target).cpu()
            self._targets[name, batch_idx] = known
        return known[1].to(target.device)

    def _without_images(self, module: pl.LightningModule, outputs: Any) -> None:
        """Skip a validation without images; raise an error if only one of result and target is there."""
        if isinstance(outputs, Mapping) and {"target", "result"} & set(outputs):
            step = f"{type(module).__name__}.validation_step"
            raise UserError(f"ImageMetrics needs {step} to return 'target' and 'result', got {sorted(outputs)}")
        if not self._reported:
            log.info("image metrics: the validation of %s produces no images to measure", type(module).__name__)
        self._reported, self._active = True, False

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
            pl_module.log(self.prefix + name, value.to(torch.get_default_dtype()), sync_dist=True)
