"""Generator samples with exact codes and precomputed features, in shards, so that rendering can be interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from oodgan.generators.protocol import Generator, sample_codes
from oodgan.inversion.augment import occlude, photometric
from oodgan.training.shards import read_shards, render_shards

_BATCH = 4
_SHARD = 100


@torch.no_grad()
def render_samples(
    generator: Generator, encoder: Any, folder: Path, count: int, seed: int, size: int = 256
) -> list[Path]:
    """Write at least `count` samples as shards of {features of `encoder.describe`, code (100, L, 512)}.

    Truncation varies between 0.5 and 1, half of the samples mix styles, and every other batch is augmented.
    """

    def render(own: int) -> dict[str, Tensor]:
        return _shard(generator, encoder, own, size)

    return render_shards(folder, "samples", -(-count // _SHARD), seed, render, f"render {count} samples")


def _shard(generator: Generator, encoder: Any, seed: int, size: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, _SHARD, _BATCH):
        truncation = 0.5 + 0.5 * float(torch.rand((), generator=rng))
        codes = sample_codes(generator, _BATCH, seed * 1009 + start, truncation, mixing=0.5)
        images = generator.synthesis(codes, size=min(size, generator.resolution)).clamp(-1, 1)
        if (start // _BATCH) % 2:
            images = photometric(occlude(images, rng), rng)
        parts.append({**encoder.describe(images), "code": codes})
    return {key: torch.cat([part[key] for part in parts]).half().contiguous() for key in parts[0]}


class DescribedSamples(Dataset[dict[str, Tensor]]):
    """The samples of shards, held in memory as fp16: {"features": {...}, "code": (L, 512), "name": str}."""

    def __init__(self, shards: list[Path]) -> None:
        self._data = read_shards(shards)

    def __len__(self) -> int:
        return len(self._data["code"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {key: value[index].float() for key, value in self._data.items()}
        return {"code": row.pop("code"), "features": row, "name": f"sample {index}"}
