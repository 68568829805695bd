"""Training data as one endless stream of batches that can start at any batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl

from oodgan.data.sampler import UnpaddedSampler
from oodgan.errors import UserError


class Endless:
    """Repeats a loader epoch by epoch, calling its sampler's `set_epoch`, starting at batch number `start`.

    A sampler with `resume(epoch, batch)` (`oodgan.data.sampler.TrainSampler`) starts there directly; otherwise earlier
    batches are read and dropped. The batches are the same as in a stream from the beginning. When iterated again
    (by Lightning, if `limit_train_batches` ends an epoch), it continues after the batches counted by `trained`.
    """

    def __init__(self, loader: Any, start: int = 0, trained: Callable[[], int] = int) -> None:
        self.loader, self.start, self.trained = loader, start, trained
        self._before: int | None = None

    def __iter__(self) -> Iterator[Any]:
        length = _length(self.loader)
        if length == 0:
            raise UserError("the training data give no batch: fewer images than the batch size?")
        if self._before is None:
            self._before = self.trained()
        start = self.start + self.trained() - self._before
        first, skip = divmod(start, length) if length else (0, start)
        for epoch in itertools.count(first):
            _set_epoch(self.loader, epoch)
            drop = _skip(self.loader, epoch, skip) if skip else 0
            yield from itertools.islice(iter(self.loader), drop, None)
            skip = 0


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _samplers(loader: Any) -> list[Any]:
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    candidates = (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None), inner)
    return [sampler for sampler in candidates if sampler is not None]


def _set_epoch(loader: Any, epoch: int) -> None:
    for part in (*_samplers(loader), getattr(loader, "dataset", None)):
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)


def _skip(loader: Any, epoch: int, batches: int) -> int:
    """Let the sampler skip batches; return the number of batches that still have to be read and dropped."""
    for sampler in _samplers(loader):
        if callable(getattr(sampler, "resume", None)):
            sampler.resume(epoch, batches)
            return 0
    return batches


class EndlessData(pl.LightningDataModule):
    """A datamodule whose training loader is `Endless`; everything else comes from the inner datamodule.

    Args:
        start: first batch of the stream.
        limit_val: number of validation batches over all processes, the same images for any number of processes; None:
            all.
    """

    def __init__(self, inner: pl.LightningDataModule, start: int = 0, limit_val: int | None = None) -> None:
        super().__init__()
        self.inner, self.start, self.limit_val = inner, start, limit_val

    def prepare_data(self) -> None:
        self.inner.prepare_data()

    def setup(self, stage: str) -> None:
        self.inner.trainer = self.trainer
        self.inner.setup(stage)

    def train_dataloader(self) -> Endless:
        loader = self.inner.train_dataloader()
        if self.trainer is None or self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return Endless(loader)
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return Endless(loader, self.start, lambda: total.ready)

    def val_dataloader(self) -> Any:
        """The inner one's loader.

        Raises:
            UserError: a process would have no image, and the others would wait for it.
        """
        loader = self.inner.val_dataloader() or []
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, UnpaddedSampler):
            if self.limit_val is not None:
                batch = getattr(self.inner, "eval_batch_size", None) or self.inner.batch_size  # type: ignore[attr-defined]
                sampler.limit(self.limit_val * batch)
            if sampler.total < sampler.world:
                raise UserError(
                    f"{sampler.total} image(s) of validation cannot be shared by {sampler.world} processes; hold more "
                    "out, or use fewer processes"
                )
        return loader

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)

    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)
