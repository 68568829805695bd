"""Training data of the transfer network: inverted samples with known edited image, and inverted photos.

A sample gets a colour cast and is covered with parts of a real photo that generators do not draw: background, cloth,
hair, hat or glasses, cut out by the parsing mask. The edited sample gets the same cover, and so is the true result of
the edit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from oodgan.data.images import to_uint8
from oodgan.data.sampler import Draw
from oodgan.directions.bank import Bank
from oodgan.foreign import reading
from oodgan.generators.protocol import Generator, sample_codes
from oodgan.inversion.inverter import Inverter
from oodgan.inversion.layers import Layers, cover_floats, covered
from oodgan.inversion.value import Inversion
from oodgan.nn.resize import resize_area
from oodgan.training.shards import render_shards

PER_SHARD = 8


def render_transfer_samples(
    generator: Generator, inverter: Inverter, layers: Layers, folder: Path, count: int, seed: int, size: int
) -> list[Path]:
    """Write at least `count` inverted samples into shards of 8; existing shards are kept.

    A shard holds the sample's exact `code` and the inverter's `w_plus` (8, L, 512), `residual` (8, C, r, r), `colour`
    (8, 2, 3): gain and offset, `layer` (8, 3, S, S) and `alpha` (8, 1, S, S) as uint8.
    """

    def render(own: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(own)
        rows = [_sample(generator, inverter, layers, rng, own * 1009 + i, size) for i in range(PER_SHARD)]
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    return render_shards(folder, "transfer", -(-count // PER_SHARD), seed, render, f"invert {count} samples")


def render_transfer_photos(
    inverter: Inverter, photos: Any, folder: Path, count: int, seed: int, size: int
) -> list[Path]:
    """Write up to `count` inverted photos, as many as fill shards of 8, with the keys of samples.

    The layer of a photo is the opaque photo itself, and its `code` comes from the inverter.
    """
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed)).tolist()
    shards = min(count, len(order)) // PER_SHARD
    numbers = {seed * 1_000_003 + i: order[i * PER_SHARD : (i + 1) * PER_SHARD] for i in range(shards)}

    def render(own: int) -> dict[str, Tensor]:
        rows = [_photo(inverter, resize_area(photos[Draw(i, own)]["image"][None], size)) for i in numbers[own]]
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    return render_shards(folder, "photos", shards, seed, render, f"invert {shards * PER_SHARD} photos")


@torch.no_grad()
def _photo(inverter: Inverter, photo: Tensor) -> dict[str, Tensor]:
    inversion = inverter.invert(photo)
    (residual,) = inversion.residuals.values()
    cast = torch.stack([torch.ones(3), torch.zeros(3)])[None]
    opaque = torch.full_like(photo[:, :1], 255).byte()
    code, layer = inversion.w_plus.half(), to_uint8(photo)
    return {"colour": cast, "layer": layer, "alpha": opaque, "code": code, "w_plus": code, "residual": residual.half()}


def _sample(
    generator: Generator, inverter: Inverter, layers: Layers, rng: torch.Generator, seed: int, size: int
) -> dict[str, Tensor]:
    sample = invert_sample(generator, inverter, layers, rng, seed, size)
    (residual,) = sample.inversion.residuals.values()
    halves = {"code": sample.code, "w_plus": sample.inversion.w_plus, "residual": residual}
    return {**sample.cover, **{key: value.half() for key, value in halves.items()}}


def mixed(samples: list[Path], photos: list[Path], seed: int) -> list[Path]:
    """Shuffle shards if there are photos, because the last ones are held out and both kinds should be among them."""
    shards = [*samples, *photos]
    if not photos:
        return shards
    order = torch.randperm(len(shards), generator=torch.Generator().manual_seed(seed)).tolist()
    return [shards[i] for i in order]


class InvertedSample(NamedTuple):
    """A sample's exact code (1, L, 512), what covers it (`Layers.cover`), and the inversion of its covered image."""

    code: Tensor
    cover: dict[str, Tensor]
    inversion: Inversion


@torch.no_grad()
def invert_sample(
    generator: Generator, inverter: Inverter, layers: Layers, rng: torch.Generator, seed: int, size: int
) -> InvertedSample:
    """Cover a sample as photos are covered, and invert it at `size` px; `seed` draws the code, `rng` all else."""
    truncation = 0.5 + 0.5 * float(torch.rand((), generator=rng))
    code, cover = sample_codes(generator, 1, seed, truncation, mixing=0.3), layers.cover(size, rng)
    photo = covered(generator.synthesis(code, size=size), cover)
    return InvertedSample(code, cover, inverter.invert(photo))


class TransferSamples(Dataset[dict[str, Any]]):
    """The samples of shards, each with an edit: the shard's tensors as floats, and `step` (L, 512).

    In training the edit depends on the draw, otherwise on the sample's index only. One of four edits has two
    attributes.

    Args:
        bank: directions to draw from.
        low, high: range of strengths, with either sign, within each direction's useful range.
    """

    def __init__(self, shards: list[Path], bank: Bank, low: float = 0.3, high: float = 1.5) -> None:
        self.shards, self.bank, self.low, self.high = shards, bank, low, high

    def __len__(self) -> int:
        return len(self.shards) * PER_SHARD

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.draw(index, index)

    def draw(self, item: int, seed: int) -> dict[str, Any]:
        """Sample `item` with the edit of `seed`."""
        shard = self.shards[item // PER_SHARD]
        with reading(shard, "samples"), safe_open(shard, "pt") as file:
            row = {key: file.get_slice(key)[item % PER_SHARD] for key in file.keys()}  # noqa: SIM118 (not a dict)
        return {**cover_floats(row), "step": self._step(seed), "name": f"sample {item}"}

    def _step(self, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        count = min(1 + int(torch.rand((), generator=rng) < 0.25), len(self.bank))
        names = [self.bank.names[i] for i in torch.randperm(len(self.bank), generator=rng)[:count].tolist()]
        edits = {}
        for name in names:
            strength = self.low + (self.high - self.low) * float(torch.rand((), generator=rng))
            lowest, highest = self.bank.range(name)
            signed = strength if float(torch.rand((), generator=rng)) < 0.7 else -strength
            edits[name] = min(max(signed, lowest), highest)
        return self.bank.delta(edits)
