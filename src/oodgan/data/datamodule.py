"""The DataModule of all stages: splits any source and loads the same global batches on any number of processes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from oodgan.data.loader import ImageLoader, Part, collate, seed_worker
from oodgan.data.sampler import TrainSampler, UnpaddedSampler
from oodgan.data.sources import Generated, Mix, Source
from oodgan.data.splits import SPLITS, TEST, TRAIN, VAL, HashSplit, Split, assign
from oodgan.errors import UserError, unknown

ALL = "all"


class ImageDataModule(pl.LightningDataModule):
    """Batches of images for training, validation, test and prediction.

    Args:
        source: one source, which `split` divides by name, or a mapping with some of {train, val, test, all: source}.
        size: side of the images in pixels; None keeps each source's own.
        batch_size: global training batch size, divided among the processes.
        eval_batch_size: global batch size of validation, test and prediction; None: `batch_size`.
        num_workers: loader processes; 0: load in the main process.
        split: maps a name to train, val or test; None: by a hash of the name, 5 % each for val and test.
        seed: seed of shuffling and mirroring.
        mirror: flip each training image with probability 1/2.
        limit: largest number of images per part, or a mapping such as {train: 1000}.
        predict: part used for prediction; `all` for everything.

    A batch is what `oodgan.data.loader.collate` describes. Training order depends on (seed, epoch) only and is resumed
    exactly from a Lightning checkpoint; evaluation sees every image once, in order, unpadded. The Trainer needs
    `use_distributed_sampler=False`. Raises `UserError` for a batch size that cannot work or an empty part.
    """

    def __init__(
        self,
        source: Source | Mapping[str, Source],
        size: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        split: Split | None = None,
        seed: int = 0,
        mirror: bool = False,
        limit: int | Mapping[str, int] | None = None,
        predict: str = ALL,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size or batch_size)):
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        if num_workers < 0:
            raise UserError(f"num_workers={num_workers} must be at least 0")
        self.sources = {ALL: source} if isinstance(source, Source) else dict(source)
        for name in [*self.sources, predict, *(limit if isinstance(limit, Mapping) else {})]:
            if name not in (*SPLITS, ALL):
                raise unknown("part of the data", name, (*SPLITS, ALL))
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.split, self.seed, self.mirror = num_workers, split or HashSplit(), seed, mirror
        self.limit, self.predict = limit, predict
        self.parts: dict[str, Part] = {}
        self._parts_of: list[str] | None = None
        if size is not None:
            for each in self.sources.values():
                each.set_size(size)
        if num_workers and any(_needs_device(each) for each in self.sources.values()):
            raise UserError(
                f"num_workers={num_workers}: a generator on a GPU draws its samples with num_workers=0 only"
            )

    def part(self, name: str) -> Part:
        """The images of `train`, `val`, `test` or `all`, in a fixed order; may be empty."""
        if name not in self.parts:
            source = self.sources.get(name, self.sources.get(ALL))
            if source is None:
                raise UserError(f"the data have no part '{name}', only {', '.join(sorted(self.sources))}")
            if name in self.sources or name == ALL:
                indices = list(range(len(source)))
            else:
                indices = [i for i, part in enumerate(self._assigned(source)) if part == name]
            limit = self.limit.get(name) if isinstance(self.limit, Mapping) else self.limit
            self.parts[name] = Part(source, indices[:limit], mirror=self.mirror and name == TRAIN)
        return self.parts[name]

    def _assigned(self, source: Source) -> list[str]:
        """The part of each image of the source that is split."""
        if self._parts_of is None:
            self._parts_of = assign(self.split, [source.name(i) for i in range(len(source))])
        return self._parts_of

    @property
    def skipped(self) -> dict[str, str]:
        """Return the names of all images left out so far, with the reason."""
        reasons: dict[str, str] = {}
        for source in self.sources.values():
            reasons.update(source.skipped)
        for part in self.parts.values():
            reasons.update(part.failed)
        return reasons

    def train_dataloader(self) -> ImageLoader:
        rank, world = self._place()
        part = self._filled(TRAIN)
        sampler = TrainSampler(len(part), self.batch_size, self.seed, rank, world)
        loader = self._loader(part, sampler, sampler.local_batch_size)
        if self.trainer is not None:
            # Count batches trained on: an interrupted batch was loaded, but must be repeated.
            progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
            loader.progress = lambda: progress.processed
        return loader

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        if VAL not in self.sources and ALL not in self.sources:
            return []
        if not len(self.part(VAL)):
            warnings.warn("no image falls into the validation part; training runs without validation", stacklevel=2)
            return []
        return self._evaluation(VAL)

    def test_dataloader(self) -> ImageLoader:
        return self._evaluation(TEST)

    def predict_dataloader(self) -> ImageLoader:
        return self._evaluation(self.predict)

    def _evaluation(self, name: str) -> ImageLoader:
        rank, world = self._place()
        part = self._filled(name)
        return self._loader(part, UnpaddedSampler(len(part), rank, world), -(-self.eval_batch_size // world))

    def _filled(self, name: str) -> Part:
        part = self.part(name)
        if not len(part):
            total = len(part.source)
            raise UserError(
                f"none of the {total} image(s) falls into the part '{name}'; change the split or add images"
            )
        return part

    def _loader(self, part: Part, sampler: Any, batch_size: int) -> ImageLoader:
        return ImageLoader(
            part,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=seed_worker,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """(rank, world size), after making sure that Lightning keeps our samplers."""
        if self.trainer is None:
            return 0, 1
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if self.trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
            raise UserError("the Trainer would pad the data: set trainer.use_distributed_sampler=false")
        return self.trainer.global_rank, self.trainer.world_size


def _needs_device(source: Source) -> bool:
    if isinstance(source, Mix):
        return any(_needs_device(each) for each in source.sources.values())
    return isinstance(source, Generated) and source.generator.mean_w.device.type != "cpu"
