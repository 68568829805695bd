"""Scores pairs with the Trainer: every photo on exactly one process, every batch saved as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from oodgan.data import images
from oodgan.data.images import mask_to_pil, read_image, write_image
from oodgan.data.sampler import UnpaddedSampler
from oodgan.errors import UserError
from oodgan.evaluation.methods import Variant
from oodgan.evaluation.pairs import Pair
from oodgan.evaluation.protocol import Protocol
from oodgan.evaluation.store import Scores, Store
from oodgan.metrics.attributes import AttributeChange, Probe
from oodgan.metrics.base import PerImage
from oodgan.metrics.distribution import INCEPTION, PYTORCH_FID, inception_features, pytorch_fid_features
from oodgan.metrics.masks import MaskArea, MaskShareOnParts
from oodgan.metrics.registry import build_per_image
from oodgan.parsing.parser import build as build_parser

Item = dict[str, Any]


@dataclass
class Job:
    """What to score and how.

    Attributes:
        edit: the edit of the built-in methods, {name: strength}.
        variants: {row: variant} of rows that are not simply methods of that name.
        maker: builds the `Maker` of the built-in methods; called at most once per process, and only if needed.
        identity: further identity metrics.
        masks: whether masks are measured: their area and, with `parts`, their share on the parts of these attributes.
        probes: (attribute, version, sign) -> probe: their change from photo to result becomes a column.
        photo_features: False when the photos' set statistics are known already.
        parser: config group of the parser for photos without parsing masks; None: no parser.
        reals: photos that FID compares the results with, if these are not the edited ones.
    """

    pairs: Sequence[Pair]
    protocol: Protocol
    store: Store
    edit: Mapping[str, float] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    maker: Callable[[], Any] | None = None
    identity: Sequence[Callable[..., PerImage]] = ()
    masks: bool = False
    parts: Sequence[str] = ()
    probes: Mapping[tuple[str, str, float], Probe] = field(default_factory=dict)
    photo_features: bool = True
    reals: Sequence[Pair] = ()
    parser: Mapping[str, Any] | None = None

    @property
    def methods(self) -> list[str]:
        """The rows: methods, or methods at one strength each."""
        return list(self.pairs[0].results)

    def variant(self, row: str) -> Variant:
        return self.variants.get(row) or Variant(row, row)

    def build(self) -> list[PerImage]:
        """The per-image metrics in column order, without syncing: the store brings the processes' parts together."""
        metrics = [build_per_image(name, sync_on_compute=False) for name in self.protocol.metrics]
        metrics += [make(sync_on_compute=False) for make in self.identity]
        metrics += [MaskArea(sync_on_compute=False)] if self.masks else []
        metrics += [MaskShareOnParts(self.parts, sync_on_compute=False)] if self.masks and self.parts else []
        return metrics + [AttributeChange(p, *key, sync_on_compute=False) for key, p in self.probes.items()]

    @property
    def columns(self) -> list[str]:
        return [metric.name for metric in self.build()]


def extractor(protocol: Protocol) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the feature extractor of the set metrics, and its name."""
    if f"fid_{PYTORCH_FID}" in protocol.sets:
        return pytorch_fid_features, PYTORCH_FID
    return inception_features, INCEPTION


class PairDataset(Dataset[Item]):
    """Prepared pictures of pairs: `photo` (3, R, R), `results` {method: the same, None if not made yet}, `masks`
    {method: (1, R, R)} as far as they are there, `labels`.

    `at` is the index into `pairs`, and not the pair itself, because Lightning cannot move frozen dataclasses in a
    batch.
    """

    def __init__(self, pairs: Sequence[Pair], protocol: Protocol):
        self.pairs, self.protocol = pairs, protocol

    def __len__(self) -> int:
        return len(self.pairs)

    def picture(self, path: Any) -> Tensor:
        return self.protocol.prepare(read_image(path)[None])[0]

    def __getitem__(self, index: int) -> Item:
        from oodgan.data.files import read_parsing

        pair = self.pairs[index]
        results = {m: self.picture(path) if path.is_file() else None for m, path in pair.results.items()}
        labels = read_parsing(pair.labels, self.protocol.resolution) if pair.labels is not None else None
        masks = {m: read_mask(path, self.protocol.resolution) for m, path in pair.masks.items() if path.is_file()}
        item = {"at": index, "photo": self.picture(pair.photo), "results": results}
        return {**item, "masks": masks, "labels": labels}


def read_mask(path: Path, size: int) -> Tensor:
    """A grey picture as a mask (1, size, size) in [0, 1], shrunk by area."""
    return F.interpolate(images.read_mask(path)[None], (size, size), mode="area")[0]


class Scorer(pl.LightningModule):
    """Scores the pairs of a job that are not in its store yet."""

    def __init__(self, job: Job, batch_size: int, workers: int = 0):
        super().__init__()
        self.job, self.batch_size, self.workers = job, batch_size, workers
        done = job.store.done()
        self.pending = [pair for pair in job.pairs if pair.name not in done]
        self.metrics = job.build()
        self._maker: Any = None
        self._parser = build_parser(job.parser)

    def test_dataloader(self) -> DataLoader[Item]:
        data = PairDataset(self.pending, self.job.protocol)
        sampler = UnpaddedSampler(len(data), self.global_rank, self.trainer.world_size)
        return DataLoader(data, self.batch_size, sampler=sampler, num_workers=self.workers, collate_fn=list)

    def test_step(self, batch: list[Item], batch_idx: int) -> None:
        for item in batch:
            self._complete(item)
        photos = torch.stack([item["photo"] for item in batch]).to(self.device)
        inputs = {"target": photos, "labels": self._labels(batch, photos)}
        values, features = [], []
        extract, _ = extractor(self.job.protocol)
        for method in self.job.methods:
            inputs["result"] = torch.stack([item["results"][method] for item in batch]).to(self.device)
            inputs["mask"] = self._masks(batch, method)
            columns = [metric.per_image(*(inputs[key] for key in metric.inputs)).double() for metric in self.metrics]
            values.append(torch.stack(columns, 1) if columns else torch.zeros(len(batch), 0))
            if self.job.protocol.sets:
                features.append(extract(inputs["result"]))
        if features:
            known = not self.job.photo_features
            features.append(torch.zeros_like(features[0]) if known else extract(photos))
        every = torch.stack(features, 1).cpu().numpy() if features else np.zeros((len(batch), 0, 0), np.float32)
        scored = torch.stack(values, 1).cpu().numpy()
        pairs = [self.pending[item["at"]] for item in batch]
        self.job.store.write([Scores(p.index, p.name, v, f) for p, v, f in zip(pairs, scored, every, strict=True)])

    def on_test_end(self) -> None:
        # The next reader of the store needs the parts of all processes.
        self.trainer.strategy.barrier()

    def _labels(self, batch: list[Item], photos: Tensor) -> Tensor:
        """Return the parsing masks; for a photo without one, the parser's output, or else -1, which is in no region."""
        size = self.job.protocol.resolution
        if self._parser is None:
            known = torch.full((len(batch), size, size), -1, device=self.device)
        else:
            known = self._parser.celebamask(photos, size)
        labels = (k if i["labels"] is None else i["labels"].to(k) for k, i in zip(known, batch, strict=True))
        return torch.stack(list(labels))

    def _masks(self, batch: list[Item], method: str) -> Tensor:
        # Methods without masks have nothing to measure: nan.
        size = self.job.protocol.resolution
        missing = torch.full((1, size, size), torch.nan)
        return torch.stack([item["masks"].get(method, missing).to(self.device) for item in batch])

    def _complete(self, item: Item) -> None:
        """Compute the missing images of an item, one strength after the other."""
        missing = [row for row, picture in item["results"].items() if picture is None]
        for row in sorted(missing, key=lambda row: self.job.variant(row).strength):
            item["results"][row] = self._make(item, row)

    def _make(self, item: Item, row: str) -> Tensor:
        pair, variant = self.pending[item["at"]], self.job.variant(row)
        if self._maker is None:
            assert self.job.maker is not None
            self._maker = self.job.maker()
        edit = {name: strength * variant.strength for name, strength in self.job.edit.items()}
        picture, mask = self._maker.produce(variant.source, read_image(pair.photo), edit, variant.changes)
        check_range(picture, f"{row} of {pair.name}")
        if mask is not None:  # first, so that an image never exists without its mask
            write_image(mask_to_pil(mask[None]), pair.masks[row])
            item["masks"][row] = read_mask(pair.masks[row], self.job.protocol.resolution)
        write_image(picture, pair.results[row])
        return self.job.protocol.prepare(read_image(pair.results[row])[None])[0]


def check_range(picture: Tensor, what: str) -> None:
    """Raise an error for an image outside [-1, 1] (excess up to 0.01 is rounding, and is clipped when it is written).

    Raises:
        UserError: with the extreme values.
    """
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -1.5 and high <= 1.5) or not torch.isfinite(picture).all():
        raise UserError(f"{what} is out of range: values from {low:.3g} to {high:.3g}, expected -1 to 1")
