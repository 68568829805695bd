"""Images drawn by a generator, and mixtures of sources."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from oodgan.data import images
from oodgan.data.source import Sample, Source, checked_size
from oodgan.errors import UserError
from oodgan.generators.protocol import Generator, sample_codes


class Generated(Source):
    """Samples of a generator with their exact codes: `w_plus` (L, 512) beside the image.

    Sample `i` depends on (`seed`, `i`) only, not on earlier draws or workers. `truncation` is one value or a range to
    draw from uniformly; styles are mixed with probability `mixing`. With `cache`, every image is written once to a
    folder named after the generator and these settings, and all images are rounded to 8 bits.
    """

    def __init__(
        self,
        generator: Generator,
        length: int = 10_000,
        size: int = 256,
        seed: int = 0,
        truncation: float | Sequence[float] = 0.7,
        mixing: float = 0.0,
        cache: str | Path | None = None,
    ) -> None:
        if length < 1:
            raise UserError(f"length={length} must be at least 1 sample")
        self.generator, self.length, self.seed, self.mixing = generator, length, seed, mixing
        self.low, self.high = _range(truncation)
        self.size, self.skipped = checked_size(size), {}
        self.cache = Path(cache).expanduser() if cache else None

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"{range(self.length)[index]:06d}.png"

    @torch.no_grad()
    def code(self, index: int) -> torch.Tensor:
        """The exact code (L, 512) of sample `index`."""
        seed = _mixed(self.seed, range(self.length)[index])
        truncation = self.low + (self.high - self.low) * (_mixed(seed, 1) / 2**63)
        return sample_codes(self.generator, 1, seed, truncation, self.mixing)[0].float().cpu()

    @torch.no_grad()
    def __getitem__(self, index: int) -> Sample:
        code, path = self.code(index), self._path(index)
        if path is not None and path.is_file():
            image = images.read_image(path)
        else:
            device = self.generator.mean_w.device
            size = self.size if self.size < self.generator.resolution else None
            image = self.generator.synthesis(code[None].to(device), size=size)[0].float().cpu().clamp(-1, 1)
            image = images.resize(image, self.size)
            if path is not None:
                images.write_image(image, path)
                image = images.to_uint8(image).float() / 127.5 - 1
        return {"image": image, "name": self.name(index), "w_plus": code}

    def _path(self, index: int) -> Path | None:
        if self.cache is None:
            return None
        settings = f"{self.size}-seed{self.seed}-psi{self.low:g}-{self.high:g}-mix{self.mixing:g}"
        return self.cache / f"{self.generator.id}-{settings}" / self.name(index)


def _range(value: float | Sequence[float]) -> tuple[float, float]:
    low, high = (value, value) if isinstance(value, int | float) else tuple(value)
    if not 0 <= low <= high:
        raise UserError(f"truncation={value} must be a number from 0, or a range [low, high]")
    return float(low), float(high)


def _mixed(seed: int, index: int) -> int:
    """Hash seed and index to a 63-bit seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 1


class Mix(Source):
    """Several sources in fixed proportions, e.g. `sources={generated: ..., real: ...}, ratios={generated: 3, real: 1}`.

    The source of sample `i` depends on (`seed`, `i`) only. Each source is shuffled once, so that a few samples cover
    the whole folder; a source that is used up starts again. `length` defaults to the sum of the sources' lengths. Names
    start with the source's key. Keys that only some samples have are completed by the DataModule's collation.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        ratios: Mapping[str, float],
        length: int | None = None,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.sources = dict(sources)
        if set(self.sources) != set(ratios) or any(ratio < 0 for ratio in ratios.values()) or not sum(ratios.values()):
            raise UserError(f"ratios {dict(ratios)} must give each of {sorted(self.sources)} a share, not all zero")
        self.keys = sorted(self.sources)
        shares = np.array([ratios[key] for key in self.keys], dtype=np.float64)
        total = length if length is not None else sum(map(len, self.sources.values()))
        if total < 1:
            raise UserError(f"length={length} must be at least 1 sample")
        self.choice = np.random.default_rng(seed).choice(len(self.keys), size=total, p=shares / shares.sum())
        self.inner = np.zeros(total, dtype=np.int64)
        for k, key in enumerate(self.keys):
            mine = self.choice == k
            order = np.random.default_rng((seed, k)).permutation(len(self.sources[key]))
            self.inner[mine] = order[np.arange(mine.sum()) % len(order)]
        self.skipped = {f"{k}/{n}": why for k, each in self.sources.items() for n, why in each.skipped.items()}
        self.set_size(size if size is not None else self.sources[self.keys[0]].size)

    def set_size(self, size: int) -> None:
        super().set_size(size)
        for source in self.sources.values():
            source.set_size(size)

    def __len__(self) -> int:
        return len(self.choice)

    def name(self, index: int) -> str:
        key = self.keys[self.choice[index]]
        return f"{key}/{self.sources[key].name(int(self.inner[index]))}"

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[self.choice[index]]
        return {**self.sources[key][int(self.inner[index])], "name": self.name(index)}
