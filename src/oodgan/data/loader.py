"""From a source to batches: training views, collation that survives damaged files, and a loader that can resume."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from oodgan.data.sampler import Draw, TrainSampler
from oodgan.data.sources import Sample, Source
from oodgan.errors import UserError

Batch = dict[str, Any]
PATIENCE = 20
TURNED = ("yaw", "roll")  # labels that mirroring reverses
OPTIONAL = ("parsing", "w_plus")

# Mirroring swaps CelebAMask-HQ's left and right eyes, brows and ears.
_SWAPPED = torch.arange(256)
_SWAPPED[[4, 5, 6, 7, 8, 9]] = torch.tensor([5, 4, 7, 6, 9, 8])


class Part(Dataset[Sample]):
    """Some images of a source, for training (drawn by `Draw`, maybe mirrored) or for evaluation (by plain index).

    An image that cannot be decoded is replaced by its successor in training, and marked for dropping in evaluation.
    `failed` maps the names of such images to the reason, in the main process.
    """

    def __init__(self, source: Source, indices: Sequence[int], mirror: bool = False) -> None:
        self.source, self.indices, self.mirror = source, indices, mirror
        self.failed: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int | Draw) -> Sample:
        failed: dict[str, str] = {}
        start = item.item if isinstance(item, Draw) else item
        for step in range(min(PATIENCE, len(self)) if isinstance(item, Draw) else 1):
            index = self.indices[(start + step) % len(self)]
            try:
                sample = dict(self.source[index])
            except UserError as error:
                failed[self.source.name(index)] = str(error)
                continue
            if isinstance(item, Draw):
                sample = self._view(sample, item.seed)
            return {**sample, "failed": failed}
        if isinstance(item, Draw):
            raise UserError(
                f"{len(failed)} images in a row cannot be read, beginning with {next(iter(failed.values()))}"
            )
        return {"failed": failed}

    def _view(self, sample: Sample, seed: int) -> Sample:
        # The code of a mirrored face is unknown.
        if self.mirror and seed & 1 and "w_plus" not in sample:
            sample["image"] = sample["image"].flip(-1)
            if "parsing" in sample:
                sample["parsing"] = _SWAPPED[sample["parsing"].flip(-1)]
            if "labels" in sample:
                sample["labels"] = {name: -v if name in TURNED else v for name, v in sample["labels"].items()}
        return {**sample, "seed": seed}

    def note(self, failed: dict[str, str]) -> None:
        """Remember images that could not be read, and say so once for each."""
        for name, reason in failed.items():
            if name not in self.failed:
                warnings.warn(f"image skipped ({len(self.failed) + 1} so far): {reason}", stacklevel=3)
            self.failed[name] = reason


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples: `image` (B, 3, S, S), `name` list of B, in training `seed` (B,) int64.

    `labels` {attribute: (B,)} with NaN for unknown values, `parsing` (B, S, S) and `w_plus` (B, L, 512) are present if
    any sample has them; `has_parsing` and `has_w_plus` (B,) mark the valid rows, the others are 0. `failed` lists the
    images left out; B is 0 if all were.
    """
    good = [sample for sample in samples if "image" in sample]
    batch: Batch = {"name": [sample["name"] for sample in good], "failed": {}}
    for sample in samples:
        batch["failed"].update(sample["failed"])
    if not good:
        return batch
    batch["image"] = torch.stack([sample["image"] for sample in good])
    if "seed" in good[0]:
        batch["seed"] = torch.tensor([sample["seed"] for sample in good])
    if any("labels" in sample for sample in good):
        every = [sample.get("labels", {}) for sample in good]
        names = dict.fromkeys(name for labels in every for name in labels)
        batch["labels"] = {name: torch.tensor([labels.get(name, float("nan")) for labels in every]) for name in names}
    for key in OPTIONAL:
        known = [sample[key] for sample in good if key in sample]
        if known:
            batch[key] = torch.stack([sample.get(key, torch.zeros_like(known[0])) for sample in good])
            batch[f"has_{key}"] = torch.tensor([key in sample for sample in good])
    return batch


def seed_worker(_: int) -> None:
    """Seed Python's and NumPy's generators in a worker from torch's, which the loader's generator seeded."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the global generator is what has to be seeded)


class ImageLoader(DataLoader[Sample]):
    """A DataLoader that drops unreadable images and, with a `TrainSampler`, resumes exactly.

    Lightning saves `state_dict()` in checkpoints and restores it on resuming. `progress` (set by the DataModule)
    returns the number of batches of this epoch that were trained on; without it, loaded batches are counted.
    """

    progress: Callable[[], int] | None = None
    _given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._given = self.sampler.start if isinstance(self.sampler, TrainSampler) else 0
        for batch in self._batches():
            self._given += 1
            failed = batch.pop("failed")
            if failed and isinstance(self.dataset, Part):
                self.dataset.note(failed)
            if batch["name"]:
                yield batch

    def _batches(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except UserError as error:
            # A worker's error arrives with its traceback as text; the message is the last line.
            raise UserError(str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]) from None

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the global batches used in it, and what the order depends on; empty for evaluation."""
        if not isinstance(self.sampler, TrainSampler):
            return {}
        batch = self._given if self.progress is None else self.progress()
        return {**self.sampler.state_dict(), "epoch": self.sampler.epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, on any number of processes; warns when data or settings differ now."""
        if not isinstance(self.sampler, TrainSampler) or not state:
            return
        now = self.sampler.state_dict()
        changed = [f"{key} {state.get(key)} -> {now[key]}" for key in now if state.get(key) != now[key]]
        if changed:
            warnings.warn(f"the data or settings changed ({', '.join(changed)}): the order of images starts anew")
        else:
            self.sampler.resume(state["epoch"], state["batch"])
