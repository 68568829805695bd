"""Order of training images: the same global batches on any number of processes, resumable at any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import Sampler

from oodgan.errors import UserError


class Draw(NamedTuple):
    """One training draw: an index into the dataset, and a 63-bit seed for the random augmentation of this sample."""

    item: int
    seed: int


class UnpaddedSampler(Sampler[int]):
    """Every `world`-th index, starting at `rank`: each index on exactly one rank, without padding (unlike torch's)."""

    def __init__(self, n: int, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not below world size {world}")
        self.rank, self.world = rank, world
        self.limit(n)

    def limit(self, total: int) -> None:
        """Keep the first `total` images of all processes together."""
        self.total = min(total, getattr(self, "total", total))
        self.indices = range(self.rank, self.total, self.world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class TrainSampler(Sampler[Draw]):
    """A fresh shuffle each epoch that depends on (`seed`, epoch) only; each rank gets its share of every global batch.

    Rank r of W gets the r-th of W slices of each global batch of `batch_size`, so that W processes together train on
    the same batches as one. An incomplete last batch is dropped. `resume(epoch, start)` starts that epoch at global
    batch `start`. Raises `UserError` for an invalid batch size.
    """

    def __init__(self, n: int, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or batch_size % world:
            raise UserError(f"batch_size={batch_size} must be a positive multiple of the number of processes ({world})")
        if batch_size > n:
            raise UserError(f"batch_size={batch_size} is more than the {n} training image(s); at most {n} can work")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not below world size {world}")
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.epoch = 0
        self._resume = (0, 0)

    @property
    def batches(self) -> int:
        """Global batches in a full epoch."""
        return self.n // self.batch_size

    @property
    def local_batch_size(self) -> int:
        """Samples of each global batch that this rank draws."""
        return self.batch_size // self.world

    @property
    def start(self) -> int:
        """Global batch at which the current epoch begins."""
        return self._resume[1] if self._resume[0] == self.epoch else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def resume(self, epoch: int, start: int) -> None:
        """Set the epoch and start it at global batch `start`; later epochs start at 0."""
        self.epoch, self._resume = epoch, (epoch, min(start, self.batches))

    def __iter__(self) -> Iterator[Draw]:
        rng = torch.Generator().manual_seed(_mixed(self.seed, self.epoch, -1))
        order = torch.randperm(self.n, generator=rng).tolist()
        for batch in range(self.start, self.batches):
            first = batch * self.batch_size + self.rank * self.local_batch_size
            for position in range(first, first + self.local_batch_size):
                yield Draw(order[position], _mixed(self.seed, self.epoch, position))

    def __len__(self) -> int:
        return self.batches * self.local_batch_size

    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on, to be compared after a restart."""
        return {"n": self.n, "batch_size": self.batch_size, "seed": self.seed}


def _mixed(*numbers: int) -> int:
    """Hash several numbers to a 63-bit seed."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1
