"""(inverted, edited, which edit) triples of generator samples, rendered once into shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from oodgan.data.images import to_uint8
from oodgan.diffcam.network import DiffCAM, pool
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.files import save_tensors
from oodgan.generators.protocol import Generator, sample_codes
from oodgan.inversion.inverter import Inverter
from oodgan.inversion.layers import Layers
from oodgan.inversion.transfer import Transfer
from oodgan.inversion.transfer_samples import invert_samples
from oodgan.inversion.value import Inversion, concatenate
from oodgan.nn.resize import resize_area
from oodgan.training.progress import track
from oodgan.training.shards import read_shards, render_shards

_SHARD = 48
REGION_SIZE = 32


@dataclass
class InvertedCodes:
    """Inversions of covered samples as a fraction of a renderer's codes; `transfer` computes residuals of edits."""

    inverter: Inverter
    transfer: Transfer
    layers: Layers
    share: float

    def draw(self, generator: Generator, rng: torch.Generator, seed: int, size: int) -> Inversion | None:
        """Return an inversion of one image, or None if this code should be an exact one."""
        if float(torch.rand((), generator=rng)) >= self.share:
            return None
        return invert_samples(generator, self.inverter, self.layers, rng, [seed], size).inversion


class PairRenderer:
    """Draws a code, edits it along several random directions, and renders both sides.

    Truncation is drawn between 0.5 and 1, strengths between `low` and `high`, with either sign (the published training
    uses one fixed strength, section 4.1). Images are rendered at `size` and resized to `network_size`; `mirrored` adds
    the mirror image of each pair, which needs no rendering.

    Args:
        photos: provides a fraction of the codes as inversions of partly covered samples, with residuals; None: all
            codes are exact codes of samples.
    """

    def __init__(
        self,
        generator: Generator,
        bank: Bank,
        size: int = 256,
        network_size: int = 128,
        edits_per_code: int = 4,
        low: float = 0.5,
        high: float = 1.5,
        both_senses: bool = True,
        mirrored: bool = False,
        photos: InvertedCodes | None = None,
    ) -> None:
        self.photos = photos
        self.generator, self.bank = generator, bank
        self.size = min(size, generator.resolution)
        self.network_size = min(network_size, self.size)
        self.edits_per_code = min(edits_per_code, len(bank))
        self.low, self.high, self.both_senses, self.mirrored = low, high, both_senses, mirrored

    @torch.no_grad()
    def draw(self, rng: torch.Generator, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the pairs of one code: inverted (1, 3, n, n), edited (E, 3, n, n), labels (E,)."""
        photo = self.photos.draw(self.generator, rng, seed, self.size) if self.photos else None
        if photo is None:
            truncation = 0.5 + 0.5 * float(torch.rand((), generator=rng))
            code = sample_codes(self.generator, 1, seed, truncation, mixing=0.3)
        else:
            code = photo.w_plus
        labels = torch.randperm(len(self.bank), generator=rng)[: self.edits_per_code]
        strength = self.low + (self.high - self.low) * torch.rand(len(labels), generator=rng)
        if self.both_senses:
            strength = strength * (1 - 2 * torch.randint(0, 2, (len(labels),), generator=rng))
        steps = strength[:, None, None] * self.bank.vectors[labels]
        edited = code + steps.to(code)
        if photo is None or self.photos is None:
            images = self.render(torch.cat([code, edited]))
        else:
            after = self.photos.transfer(self.generator, concatenate([photo] * len(edited)), edited)
            images = self._shrunk(concatenate([photo, after]).image(self.generator, self.size))
        return images[:1], images[1:], labels

    @torch.no_grad()
    def render(self, codes: Tensor) -> Tensor:
        """Codes -> images (B, 3, n, n) in [-1, 1] as the network sees them."""
        return self._shrunk(self.generator.synthesis(codes, size=self.size).clamp(-1, 1))

    def _shrunk(self, images: Tensor) -> Tensor:
        return F.interpolate(images, (self.network_size, self.network_size), mode="area")


def render_pairs(
    renderer: PairRenderer, network: DiffCAM, folder: Path, count: int, seed: int, images: Path | None = None
) -> list[Path]:
    """Write at least `count` pairs into shards, and as many mirrored ones beside them; existing shards are kept.

    A shard holds `label` and, when only the network's head trains, `pooled` features; else uint8 images `inverted` and
    `edited`. `images` is a folder of rendered images that networks with other features share; None: none.
    """
    per_shard = max(1, _SHARD // renderer.edits_per_code)
    shards = -(-count // (per_shard * renderer.edits_per_code))
    network.eval()

    def render(own: int) -> dict[str, Tensor]:
        if images is None or not network.only_head_trains:
            return _described(network, _images(renderer, per_shard, own), renderer.mirrored)
        path = images / f"images_{own}.safetensors"
        if not path.exists():
            images.mkdir(parents=True, exist_ok=True)
            save_tensors(path, _images(renderer, per_shard, own))
        device = renderer.generator.mean_w.device
        shared = {key: value.to(device) for key, value in load_file(path).items()}
        return _described(network, shared, renderer.mirrored)

    return render_shards(folder, "pairs", shards, seed, render, f"render {count} edited pairs")


def _images(renderer: PairRenderer, codes: int, seed: int) -> dict[str, Tensor]:
    """Draw uint8 `inverted` (C, 3, n, n), `edited` (C, E, 3, n, n) and `label` (C, E)."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [renderer.draw(rng, seed * 1009 + i) for i in range(codes)]
    return {
        "inverted": torch.cat([to_uint8(inverted) for inverted, _, _ in drawn]).contiguous(),
        "edited": torch.stack([to_uint8(edited) for _, edited, _ in drawn]).contiguous(),
        "label": torch.stack([labels for _, _, labels in drawn]),
    }


@torch.no_grad()
def _described(network: DiffCAM, images: Mapping[str, Tensor], mirrored: bool) -> dict[str, Tensor]:
    """Return the rows of a shard: for each code its pairs, then their mirror images."""
    parts: dict[str, list[Tensor]] = {}
    for inverted, edited, labels in zip(images["inverted"], images["edited"], images["label"], strict=True):
        views = [(inverted[None], edited), (inverted[None].flip(3), edited.flip(3))]
        for before, after in views if mirrored else views[:1]:
            row = {"label": labels}
            if network.only_head_trains:
                row["pooled"] = pool(network.target_features(_floats(before), _floats(after)), network.grid)
            else:
                row |= {"inverted": before.expand(len(labels), -1, -1, -1), "edited": after}
            for key, value in row.items():
                parts.setdefault(key, []).append(value)
    return {key: torch.cat(values).contiguous() for key, values in parts.items()}


def _floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


class Pairs(Dataset[dict[str, Any]]):
    """The pairs of shards, in memory."""

    def __init__(self, shards: list[Path]) -> None:
        self.data = read_shards(shards)

    def __len__(self) -> int:
        return len(self.data["label"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {"label": self.data["label"][index], "name": f"pair {index}"}
        if "pooled" in self.data:
            return row | {"pooled": self.data["pooled"][index]}
        images = {key: _floats(self.data[key][index]) for key in ("inverted", "edited")}
        return row | images


@torch.no_grad()
def find_regions(renderer: PairRenderer, network: DiffCAM, codes: int, seed: int) -> Tensor:
    """Where each edit changes faces *consistently*: (K, 32, 32) in [0, 1], from `codes` samples edited by strength 1.

    Faces are aligned, so the mean of the signed change of features over samples keeps changes common to all faces,
    while individual ones (background, hair, colour drift) average out. The squared mean is corrected for sampling noise
    (variance / samples), and summed over channels and, normalised, over layers.
    Raises UserError when an edit gives NaN.
    """
    count = len(renderer.bank)
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    network.eval()
    for i in track(range(codes), "find the regions of the edits", unit="samples"):
        code = sample_codes(renderer.generator, 1, seed * 7919 + i, 0.7)
        before = renderer.render(code)
        for k in range(count):
            after = renderer.render(code + renderer.bank.vectors[k].to(code))
            for j, change in enumerate(network.signed_change(before, after)):
                if len(sums) <= j:
                    sums.append(torch.zeros(count, *change.shape[1:]))
                    squares.append(torch.zeros(count, *change.shape[1:]))
                sums[j][k] += change[0].cpu()
                squares[j][k] += change[0].cpu().square()
    total = torch.zeros(count, 1, REGION_SIZE, REGION_SIZE)
    for first, second in zip(sums, squares, strict=True):
        mean = first / codes
        chance = (second / codes - mean.square()).clamp(min=0) / max(codes - 1, 1)
        strength = (mean.square() - chance).sum(1, keepdim=True).clamp(min=0).sqrt()
        strength = strength / strength.mean((1, 2, 3), keepdim=True).clamp(min=1e-8)
        total += resize_area(strength, REGION_SIZE)
    floor = total.flatten(1).quantile(0.5, dim=1)[:, None, None, None]
    raised = F.avg_pool2d(F.pad((total - floor).clamp(min=0), (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    top = raised.flatten(1).quantile(0.98, dim=1)[:, None, None].clamp(min=1e-8)
    regions = (raised / top).clamp(max=1)
    broken = [name for name, region in zip(renderer.bank.names, regions, strict=True) if not region.isfinite().all()]
    if broken:
        raise UserError(f"no finite region for {', '.join(broken)}: does the generator draw these edits at all?")
    return regions
