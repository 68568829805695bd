"""Batches of any map-style dataset (precomputed features, ghost pairs) with the project's own samplers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from oodgan.data.loader import seed_worker
from oodgan.data.sampler import Draw, TrainSampler, UnpaddedSampler
from oodgan.errors import UserError


class DatasetModule(pl.LightningDataModule):
    """Training and validation batches of one dataset, the last `val_count` items held out.

    `batch_size` is the global batch size (set by `training.fit`), divided among the processes. If the dataset has a
    method `draw(item, seed)`, training calls it, so that augmentation depends on the draw only. `num_workers` loader
    processes read ahead; with 0 the main process reads.
    """

    def __init__(
        self, dataset: Dataset, val_count: int, batch_size: int = 8, num_workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        total = len(dataset)  # type: ignore[arg-type]
        if not 0 <= val_count < total:
            raise UserError(f"{val_count} of {total} items cannot be held out for validation; use more data")
        self.train_part = _Drawn(dataset, total - val_count)
        self.val_part = Subset(dataset, range(total - val_count, total))
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def train_dataloader(self) -> DataLoader:
        rank, world = self._place()
        sampler = TrainSampler(len(self.train_part), self.batch_size, self.seed, rank, world)
        return self._loader(self.train_part, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader | list:
        rank, world = self._place()
        return self._loader(self.val_part, UnpaddedSampler(len(self.val_part), rank, world)) if self.val_part else []

    def _loader(self, part: Dataset, sampler: Any, drop_last: bool = False) -> DataLoader:
        return DataLoader(
            part,
            batch_size=max(1, self.batch_size // self._place()[1]),
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=seed_worker,
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=default_collate,
        )

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


class _Drawn(Dataset):
    """The first `count` items, looked up by `Draw`."""

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: Draw | int) -> Any:
        if isinstance(draw, Draw):
            if hasattr(self.dataset, "draw"):
                return self.dataset.draw(draw.item, draw.seed)
            draw = draw.item
        return self.dataset[draw]
