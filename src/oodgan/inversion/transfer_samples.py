"""Training data of the transfer network: inverted samples with known edited image, and inverted photos.

A sample gets a colour cast and is covered with parts of a real photo that generators do not draw: background, cloth,
hair, hat or glasses, cut out by the parsing mask. The edited sample gets the same cover, and so is the true result of
the edit.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    generator: Generator,
    inverter: Inverter,
    layers: Layers,
    folder: Path,
    count: int,
    seed: int,
    size: int,
    exact: bool = False,
) -> list[Path]:
    """Write at least `count` inverted samples into shards of 8; existing shards are kept.

    A shard holds the sample's exact `code` and the inverter's `w_plus` (8, L, 512), `residual` (8, C, r, r), `colour`
    (8, 2, 3): gain and offset, `layer` (8, 3, S, S) and `alpha` (8, 1, S, S) as uint8. With `exact`, samples are full
    images, reduced to `size`, instead of previews.
    """

    def render(own: int) -> dict[str, Tensor]:
        seeds = [own * 1009 + i for i in range(PER_SHARD)]
        samples = invert_samples(generator, inverter, layers, torch.Generator().manual_seed(own), seeds, size, exact)
        (residual,) = samples.inversion.residuals.values()
        halves = {"code": samples.code, "w_plus": samples.inversion.w_plus, "residual": residual}
        return {**samples.cover, **{key: value.half() for key, value in halves.items()}}

    return render_shards(folder, "transfer", -(-count // PER_SHARD), seed, render, f"invert {count} samples")


def render_transfer_photos(
    inverter: Inverter, photos: Any, folder: Path, count: int, seed: int, size: int, device: str = "cpu"
) -> list[Path]:
    """Write up to `count` inverted photos, as many as fill shards of 8, with the keys of samples.

    The layer of a photo is the opaque photo itself, and its `code` comes from the inverter.
    """
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed)).tolist()
    shards = min(count, len(order)) // PER_SHARD
    numbers = {seed * 1_000_003 + i: order[i * PER_SHARD : (i + 1) * PER_SHARD] for i in range(shards)}

    def render(own: int) -> dict[str, Tensor]:
        images = torch.stack([photos[Draw(i, own)]["image"] for i in numbers[own]])
        return _inverted_photos(inverter, resize_area(images, size).to(device))

    return render_shards(folder, "photos", shards, seed, render, f"invert {shards * PER_SHARD} photos")


@torch.no_grad()
def _inverted_photos(inverter: Inverter, photos: Tensor) -> dict[str, Tensor]:
    inversion = inverter.invert(photos)
    (residual,) = inversion.residuals.values()
    cast = torch.stack([torch.ones(3), torch.zeros(3)]).expand(len(photos), 2, 3)
    opaque = torch.full_like(photos[:, :1], 255).byte()
    codes = {"code": inversion.w_plus.half(), "w_plus": inversion.w_plus.half()}  # two tensors, as safetensors demands
    return {"colour": cast, "layer": to_uint8(photos), "alpha": opaque, "residual": residual.half(), **codes}


def mixed(samples: list[Path], photos: list[Path], seed: int) -> list[Path]:
    """Shuffle shards if there are photos, because the last ones are held out and both kinds should be among them."""
    shards = [*samples, *photos]
    if not photos:
        return shards
    order = torch.randperm(len(shards), generator=torch.Generator().manual_seed(seed)).tolist()
    return [shards[i] for i in order]


class InvertedSamples(NamedTuple):
    """Samples' exact codes (B, L, 512), what covers them (`Layers.cover`), and inversions of their covered images."""

    code: Tensor
    cover: dict[str, Tensor]
    inversion: Inversion


@torch.no_grad()
def invert_samples(
    generator: Generator,
    inverter: Inverter,
    layers: Layers,
    rng: torch.Generator,
    seeds: Sequence[int],
    size: int,
    exact: bool = False,
) -> InvertedSamples:
    """Cover samples as photos are covered, and invert them at `size` px; `seeds` draw the codes, `rng` all else.

    Samples are previews or, with `exact`, full images reduced to `size`.
    """
    codes, covers = [], []
    for seed in seeds:
        truncation = 0.5 + 0.5 * float(torch.rand((), generator=rng))
        codes.append(sample_codes(generator, 1, seed, truncation, mixing=0.3))
        covers.append(layers.cover(size, rng))
    code, cover = torch.cat(codes), {key: torch.cat([each[key] for each in covers]) for key in covers[0]}
    photos = covered(resize_area(generator.synthesis(code, size=None if exact else size), size), cover)
    return InvertedSamples(code, cover, inverter.invert(photos))


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
