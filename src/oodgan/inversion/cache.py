"""Disk cache of inverted photos: each photo is inverted once for all later edits, stages and runs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.files import replacing
from oodgan.generators.protocol import Generator
from oodgan.inversion import inverter as inverters
from oodgan.inversion.inverter import EncoderInverter
from oodgan.inversion.protocol import Inverter
from oodgan.inversion.value import Inversion, concatenate
from oodgan.tracking.artifacts import hash_settings, plain
from oodgan.weights import trained
from oodgan.weights.fetch import cache_folder

log = logging.getLogger("oodgan")

_RESIDUAL = "residual_"
NOT_USED = ("fit", "download", "weights")
"""Keys of a config group `inverter` that do not decide its codes (the weights do, by their hash)."""


class CachedInverter(nn.Module, Inverter):
    """An inverter with a disk cache of its results.

    Each photo of a batch has its own file `<hash>.safetensors`, named by the hash of the photo's pixels and `settings`.
    Files are written atomically; a damaged file is computed again; a folder that cannot be written causes a warning. If
    the files exceed `limit` bytes in total, the least recently used ones are deleted.

    Args:
        inverter: inverts the photos that are not in the cache.
        settings: hash of everything else that the codes depend on (see `settings_of`).
        folder: folder of the files.
        limit: largest total size in bytes.
    """

    def __init__(self, inverter: Inverter, settings: str, folder: Path, limit: int) -> None:
        super().__init__()
        self.inverter, self.settings, self.folder, self.limit = inverter, settings, folder, limit
        self.name, self.residual = inverter.name, inverter.residual

    @property
    def coder(self) -> EncoderInverter | None:
        return self.inverter.coder

    def invert(self, photos: Tensor) -> Inversion:
        """Photos (B, 3, R, R) in [-1, 1] -> inversions; those not in the cache are computed in one batch."""
        files = [self._file(photo) for photo in photos]
        codes = [_read(file) for file in files]
        missing = [i for i, code in enumerate(codes) if code is None]
        if missing:
            made = self.inverter.invert(photos if len(missing) == len(photos) else photos[missing]).detach()
            for row, i in enumerate(missing):
                # The same values as when read from the cache, which stores residuals in half precision.
                codes[i] = _rounded(made[row : row + 1])
                self._keep(files[i], made[row : row + 1])
        return concatenate(code.to(photos.device) for code in codes if code is not None)

    def _file(self, photo: Tensor) -> Path:
        pixels = photo.detach().float().cpu().contiguous().numpy()
        text = f"{self.settings} {tuple(photo.shape)} ".encode()
        return self.folder / f"{hashlib.sha256(text + pixels.tobytes()).hexdigest()}.safetensors"

    def _keep(self, file: Path, code: Inversion) -> None:
        tensors = {f"{_RESIDUAL}{r}": x.half().cpu().contiguous() for r, x in code.residuals.items()}
        try:
            with replacing(file) as temporary:
                save_file({"w_plus": code.w_plus.cpu().contiguous(), **tensors}, temporary)
            trim(self.folder, self.limit)
        except (OSError, UserError) as error:
            log.warning("the code is not kept in %s: %s", self.folder, error)


def _read(file: Path) -> Inversion | None:
    try:
        tensors = load_file(file)
        w_plus = tensors.pop("w_plus")
        residuals = {int(name.removeprefix(_RESIDUAL)): x.float() for name, x in tensors.items()}
        os.utime(file)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    finite = all(bool(torch.isfinite(x).all()) for x in (w_plus, *residuals.values()))
    return Inversion(w_plus, residuals) if finite and w_plus.ndim == 3 else None


def _rounded(code: Inversion) -> Inversion:
    return Inversion(code.w_plus, {r: x.half().float() for r, x in code.residuals.items()})


def trim(folder: Path, limit: int) -> None:
    """Delete the least recently used files until the folder has at most `limit` bytes, temporary files included."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                files.append((entry.stat().st_mtime_ns, entry.stat().st_size, Path(entry.path)))
            except FileNotFoundError:  # another process deleted it first
                continue
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def settings_of(cfg: Mapping[str, Any], generator: Generator) -> str:
    """Hash everything but the pixels that a photo's code depends on: the config group `inverter`, its weights, the
    generator, and the source files of this package."""
    settings = {key: value for key, value in plain(cfg).items() if key not in NOT_USED}
    weights = {name: trained.weights_hash(source) for name, source in trained.sources("weights", plain(cfg)).items()}
    return hash_settings(settings, {"generator": generator.id, "program": _program(), **weights})


@lru_cache(maxsize=1)
def _program() -> str:
    """Hash the source files of this package, so that codes of other versions are not used."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def codes_folder() -> Path:
    """The folder of cached codes: `$OODGAN_CODES`, else `codes` in the cache folder."""
    return Path(os.environ.get("OODGAN_CODES") or cache_folder() / "codes")


def build(cfg: Mapping[str, Any], generator: Generator) -> Inverter:
    """Build the inverter of a configuration, with a disk cache if `code_cache` (megabytes) is above 0.

    Raises:
        UserError: as `oodgan.inversion.inverter.build`, and for an invalid `code_cache`.
    """
    inverter, size = inverters.build(cfg["inverter"], generator), cfg.get("code_cache") or 0
    if isinstance(size, bool) or not isinstance(size, int | float) or not size >= 0:
        raise UserError(f"code_cache={size}: megabytes expected, 0 to keep no codes")
    if not size:
        return inverter
    settings = settings_of({**plain(cfg["inverter"]), "backend": cfg.get("backend")}, generator)  # rounding differs
    return CachedInverter(inverter, settings, codes_folder(), int(size * 2**20))
