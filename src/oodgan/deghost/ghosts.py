"""Ghosts, the training data of the deghoster: coarse images with artifacts, and their targets.

`target=edited`, so that the deghoster learns to keep the edit:

- Generator samples, covered by parts of real photos (`oodgan.inversion.layers`), are inverted as photos are. The target
  is the truly edited sample under the same cover.
- Real faces: what the edited photo should look like is not known (`known` is 0). The losses on change and identity
  compare the result with the edit and with the photo; losses on pixels leave these rows out.

`target=paper` (section 3.3):

- Real faces: the mask is folded so that the original dominates, and the original is the target.
- Generator samples: their code is known, and the target is the composition with this exact inversion; the ghost is the
  composition with the inverter's code, or with the known code plus noise.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from oodgan.compose import compose, fold
from oodgan.data.images import to_uint8
from oodgan.data.names import readable
from oodgan.data.splits import stable_fraction
from oodgan.diffcam.masks import Masker
from oodgan.directions.bank import Bank
from oodgan.errors import unknown
from oodgan.files import fitting, save_tensors
from oodgan.foreign import reading
from oodgan.generators.protocol import Generator
from oodgan.inversion.inverter import Inverter
from oodgan.inversion.layers import Layers, covered
from oodgan.inversion.transfer import Transfer, Whole
from oodgan.inversion.value import Inversion, concatenate
from oodgan.nn.resize import resize_area

IMAGES = ("coarse", "target", "photo", "inverted", "edited")
EDITED, PAPER = "edited", "paper"
"""What `target` may be."""
SHARD = ".ghosts.safetensors"
"""What the name of a file with several ghosts ends with."""


class GhostWriter(pl.LightningModule):
    """Writes one `<name>.safetensors` for each image of a predict loop: uint8 images, the mask, and the edited code.

    Direction, strength, noise and composition of an image depend only on its name and `seed`, not on batches, workers
    and processes. Existing ghosts, packed or not, are kept.

    Args:
        modes: compositions to draw from.
        low, high: range of strengths, with either sign.
        inverted: fraction of samples that are inverted by the inverter.
        disturbance: standard deviation of the noise on the codes of the other samples, in units of that of w.
        transfer: what happens to residuals when the code is edited; None: unchanged.
        target: edited or paper, see above.
        layers: covers of samples for `target=edited`; None: blobs of colour.

    Raises:
        UserError: another `target`.
    """

    def __init__(
        self,
        generator: Generator,
        inverter: Inverter,
        bank: Bank,
        masker: Masker,
        folder: Path,
        size: int = 256,
        modes: Sequence[str] = ("layered", "difference", "paper"),
        low: float = 0.6,
        high: float = 1.5,
        inverted: float = 0.5,
        disturbance: float = 0.35,
        seed: int = 0,
        transfer: Transfer | None = None,
        target: str = PAPER,
        layers: Layers | None = None,
    ) -> None:
        super().__init__()
        if target not in (EDITED, PAPER):
            raise unknown("deghoster.ghosts.target", target, (EDITED, PAPER))
        self.target, self.layers = target, layers or Layers()
        self.transfer = transfer or Whole()
        self.generator, self.inverter, self.bank, self.masker = generator, inverter, bank, masker
        self.folder, self.size, self.modes = Path(folder), min(size, generator.resolution), tuple(modes)
        self.low, self.high, self.seed = low, high, seed
        self.inverted, self.disturbance = inverted, disturbance
        shards = sorted(self.folder.glob(f"*{SHARD}"))
        self._packed = {name for path in shards for name in packed_names(path)}

    def predict_step(self, batch: dict[str, Any], _: int) -> list[str]:
        known = batch.get("has_w_plus")
        for i, name in enumerate(batch["name"]):
            path = self.folder / fitting(safe_name(name), ".safetensors")
            if not path.exists() and path.stem not in self._packed:
                code = batch["w_plus"][i : i + 1] if known is not None and bool(known[i]) else None
                save_tensors(path, self.ghost(batch["image"][i : i + 1], code, name))
        return list(batch["name"])

    @torch.no_grad()
    def ghost(self, photo: Tensor, code: Tensor | None, name: str) -> dict[str, Tensor]:
        """One image's ghost as uint8: `IMAGES` (3, S, S) each and `mask` (1, S, S); and the edited `code` as fp16.

        With `target=edited` also `known` (1,): whether the target is.
        """
        rng = torch.Generator().manual_seed(name_seed(name, self.seed))
        names, edits = self._edit(rng)
        photo = resize_area(photo, self.size)
        if self.target == EDITED:
            return self._keeping(photo, code, names, edits, rng)
        start = self._start(photo, code, rng)
        codes = [start, self.transfer(self.generator, start, self.bank.apply(start.w_plus, edits))]
        if code is not None:
            codes += [Inversion(code), Inversion(self.bank.apply(code, edits))]
        images = concatenate(codes).image(self.generator, self.size)
        mask = self.masker(images[:1], images[1:2], names, photo)
        mode = self.modes[int(torch.randint(len(self.modes), (), generator=rng))]
        if code is None:
            mask = fold(mask)
            target = photo
        else:
            photo, target = images[2:3], compose(images[2:3], images[2:3], images[3:4], mask, mode)
        coarse = compose(photo, images[:1], images[1:2], mask, mode)
        return _packed((coarse, target, photo, images[:1], images[1:2]), mask, codes[1].w_plus)

    def _keeping(
        self, photo: Tensor, code: Tensor | None, names: list[str], edits: dict[str, float], rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return a ghost for `target=edited`."""
        true = None
        if code is not None:
            cover = self.layers.cover(self.size, rng)
            samples = self.generator.synthesis(torch.cat([code, self.bank.apply(code, edits)]), size=self.size)
            photo, true = (covered(each, cover) for each in samples.chunk(2))
        start = self.inverter.invert(photo)
        after = self.transfer(self.generator, start, self.bank.apply(start.w_plus, edits))
        inverted, edited = concatenate([start, after]).image(self.generator, self.size).chunk(2)
        mask = self.masker(inverted, edited, names, photo)
        mode = self.modes[int(torch.randint(len(self.modes), (), generator=rng))]
        coarse = compose(photo, inverted, edited, mask, mode)
        target = photo if true is None else compose(photo, photo, true, mask, "difference")
        known = torch.tensor([0 if true is None else 1], dtype=torch.uint8)
        return _packed((coarse, target, photo, inverted, edited), mask, after.w_plus) | {"known": known}

    def _edit(self, rng: torch.Generator) -> tuple[list[str], dict[str, float]]:
        count = min(1 + int(torch.rand((), generator=rng) < 0.25), len(self.bank))
        order = torch.randperm(len(self.bank), generator=rng)[:count].tolist()
        strength = self.low + (self.high - self.low) * torch.rand(count, generator=rng)
        sign = 1 - 2 * torch.randint(0, 2, (count,), generator=rng)
        names = [self.bank.names[i] for i in order]
        return names, {name: float(s) for name, s in zip(names, strength * sign, strict=True)}

    def _start(self, photo: Tensor, code: Tensor | None, rng: torch.Generator) -> Inversion:
        """An inexact inversion."""
        if code is None or float(torch.rand((), generator=rng)) < self.inverted:
            return self.inverter.invert(photo)
        return Inversion(self._disturbed(code, rng))

    def _disturbed(self, code: Tensor, rng: torch.Generator) -> Tensor:
        shared = torch.randn(1, 1, code.shape[2], generator=rng)
        layers = torch.randn(code.shape, generator=rng)
        unit = 0.6  # approximate standard deviation of w's components in the FFHQ latent space
        return code + (self.disturbance * unit * (0.7 * shared + 0.7 * layers)).to(code)


def _packed(images: Sequence[Tensor], mask: Tensor, code: Tensor) -> dict[str, Tensor]:
    named = dict(zip(IMAGES, images, strict=True))
    packed = {key: to_uint8(value)[0].contiguous() for key, value in named.items()}
    return packed | {"mask": (mask[0] * 255).round().byte(), "code": code[0].half().contiguous()}


class Ghosts(Dataset[dict[str, Any]]):
    """The ghosts of a folder, ordered by a hash of their names.

    Float images in [-1, 1], `mask` in [0, 1], `code` (L, 512), `known` (1,).

    They are stored in shards (`pack`) or, in older artifacts, in one file each; rows are read individually.
    """

    def __init__(self, folder: Path) -> None:
        rows: list[tuple[str, Path, int | None]] = []
        for path in sorted(Path(folder).glob("*.safetensors")):
            if path.name.endswith(SHARD):
                rows += [(name, path, row) for row, name in enumerate(packed_names(path))]
            else:
                rows.append((path.stem, path, None))
        # Shuffled, so that the last ones, which training holds out, are of all kinds.
        self.rows = sorted(rows, key=lambda entry: (stable_fraction(entry[0]), entry[0]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, path, place = self.rows[index]
        with safe_open(path, "pt") as file:
            keys = [key for key in (*IMAGES, "mask", "code", "known") if key in file.keys()]  # noqa: SIM118 (not a dict)
            row = {key: file.get_tensor(key) if place is None else file.get_slice(key)[place] for key in keys}
        images = {key: row[key].float() / 127.5 - 1 for key in IMAGES}
        known = row.get("known", torch.ones(1)).float()  # in older artifacts all targets are known
        return images | {"mask": row["mask"].float() / 255, "code": row["code"].float(), "known": known, "name": name}


def pack(folder: Path, size: int = 256 << 20) -> int:
    """Pack ghosts from single files into shards of about `size` bytes; returns their total number.

    An interrupted call loses nothing: single files are deleted after their shard is written.
    """
    shards = sorted(folder.glob(f"*{SHARD}"))
    singles = sorted(path for path in folder.glob("*.safetensors") if path not in shards)
    count = max(1, size // singles[0].stat().st_size) if singles else 1
    for number, start in enumerate(range(0, len(singles), count), start=len(shards)):
        part = singles[start : start + count]
        rows = [load_file(path) for path in part]
        tensors = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        names = json.dumps([path.stem for path in part])
        save_tensors(folder / f"{number:05d}{SHARD}", tensors, {"names": names})
        for path in part:
            path.unlink()
    return sum(len(packed_names(path)) for path in folder.glob(f"*{SHARD}"))


def packed_names(shard: Path) -> list[str]:
    """The names of a shard's ghosts, row by row."""
    with reading(shard, "ghosts"), safe_open(shard, "pt") as file:
        return json.loads(file.metadata()["names"])


def name_seed(name: str, seed: int) -> int:
    """A seed that depends on an image's name and the run's seed only."""
    return int.from_bytes(hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()[:7], "big")


def safe_name(name: str) -> str:
    """Return a unique file name, without ending, for an image's name, which may contain folders.

    >>> safe_name("00000/7.png"), safe_name("my face.png")
    ('00000__7.png', 'my_face.png~3684f8dd')
    """
    text = readable(name)  # safetensors opens only files with UTF-8 names
    plain = text.replace("/", "__").replace("\\", "__").replace(" ", "_")
    told_apart = plain.replace("__", "/") == name
    return plain if told_apart else f"{plain}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
