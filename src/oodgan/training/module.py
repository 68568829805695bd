"""The base of the project's Lightning modules: what is logged is the same number on one process and on many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric


class BatchMean(Metric):
    """Mean over images of values that are means of batches, from a sum and a count that processes add up.

    (torchmetrics' own MeanMetric drops the weights where it is to let nan through.)
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor, count: int) -> None:
        self.total += value.double() * count
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


class FitModule(pl.LightningModule):
    """A LightningModule whose subclasses log by `log_training` and `log_validation`."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Tensor] = {}
        # No submodules: the names are known only when the first batch has been validated.
        self._means: dict[str, BatchMean] = {}

    def log_training(self, values: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log scalars of a training batch as `train/<name>`: their mean over all processes and accumulated batches.

        Call it once a batch, with the same names on every process.
        """
        if self._trainer is None:  # called by hand, where there is nothing to log to
            return
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        accumulate: int = getattr(self.trainer, "manual_accumulate", 1)
        if (batch_idx + 1) % accumulate:
            return
        means = torch.stack(list(self._sums.values())) / accumulate
        if self.trainer.world_size > 1:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        self.log_dict({f"train/{name}": mean for name, mean in zip(self._sums, means, strict=True)}, prog_bar=True)
        self._sums = {}

    def log_validation(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add a batch of `count` images to the means that are logged as `val/<name>` when validation ends.

        A value is the batch's mean. Sums and counts are added up over all processes, so that uneven shards do no harm.
        """
        for name, value in values.items():
            self._mean(name).update(value.detach(), count)

    def _mean(self, name: str) -> BatchMean:
        if name not in self._means:
            self._means[name] = BatchMean().to(self.device)
        return self._means[name]

    def on_validation_epoch_start(self) -> None:
        for mean in self._means.values():
            mean.reset()

    def on_validation_epoch_end(self) -> None:
        for name in self._known_names():
            value = self._mean(name).compute()
            # Equal on all processes already: the mean that sync_dist takes changes nothing.
            self.log(f"val/{name}", value.to(torch.get_default_dtype()), prog_bar=True, sync_dist=True)

    def _known_names(self) -> list[str]:
        """The names that any process has logged: computing a mean is a collective call, so all must make it."""
        names: Any = [list(self._means)]
        if self.trainer.world_size > 1:
            names *= self.trainer.world_size
            torch.distributed.all_gather_object(names, names[0])
        return sorted({name for each in names for name in each})
