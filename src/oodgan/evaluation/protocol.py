"""The evaluation protocol: all settings that change measured numbers without changing a method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from oodgan.data.images import to_uint8
from oodgan.data.names import bare
from oodgan.errors import UserError, unknown

FILTERS = ("bilinear", "bicubic")
ROUNDINGS = ("8bit", "none")
SETS = ("fid_inception2015", "kid_inception2015", "fid_pytorchfid")
INPUTS = {"result", "target", "labels", "mask"}  # inputs of metrics in an evaluation


@dataclass(frozen=True)
class Protocol:
    """A versioned protocol; two results may share a table only when their `id` is equal.

    Attributes:
        name, version: for people; changing any other field also changes `id`.
        split: config of the split of the photos' folder; `part` is the part that is used.
        count: number of photos (None: all), selected by a hash of seed and name, so that adding photos changes little.
        resolution, filter, antialias: every image is resized to this side in float by torch.
        rounding: `8bit` rounds to 8 bits before and after the resize, as files would be; `none` does not.
        seed, bootstrap_samples, bootstrap_level: the confidence intervals' draw.
        metrics: names of per-image metrics.  sets: of FID and KID.
        attribute: {name, present, table} of labelled photos: photos without it are edited, and FID compares the results
            with photos that have it (`oodgan.evaluation.edited_fid`); None: all photos are edited and compared with.
    """

    name: str = "protocol_v1"
    version: int = 1
    split: Mapping[str, Any] = field(default_factory=lambda: {"_target_": "oodgan.data.splits.OnePart"})
    part: str = "test"
    count: int | None = None
    resolution: int = 256
    filter: str = "bicubic"
    antialias: bool = True
    rounding: str = "8bit"
    seed: int = 0
    bootstrap_samples: int = 1000
    bootstrap_level: float = 0.95
    metrics: Sequence[str] = ("lpips_alex_v0.1", "ssim_gauss11", "psnr", "identity_facenet_20180408")
    sets: Sequence[str] = ()
    attribute: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        from oodgan.metrics.registry import build_per_image

        for key, value, known in (("filter", self.filter, FILTERS), ("rounding", self.rounding, ROUNDINGS)):
            if value not in known:
                raise unknown(key, value, known)
        for name in self.sets:
            if name not in SETS:
                raise unknown("set metric", name, SETS)
        if len({name.split("_", 1)[1] for name in self.sets}) > 1:
            raise UserError(f"sets={list(self.sets)} are of two feature extractors; measure them by two protocols")
        if self.attribute is not None and list(self.sets) != ["fid_pytorchfid"]:
            raise UserError(f"with an attribute sets must be [fid_pytorchfid], got {list(self.sets)}")
        for name in self.metrics:
            for key in set(build_per_image(name).inputs) - INPUTS:
                raise UserError(f"the metric {name} needs a {key} for each photo, which an evaluation does not have")
        if self.resolution < 16 or (self.count is not None and self.count < 1):
            raise UserError(f"resolution={self.resolution} must be at least 16 and count={self.count} at least 1")
        if not 0 < self.bootstrap_level < 1 or self.bootstrap_samples < 1:
            raise UserError("bootstrap_level must lie between 0 and 1, bootstrap_samples must be at least 1")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Protocol:
        """A protocol from plain values.

        Raises:
            UserError: an unknown key, or a value that cannot work.
        """
        known = {f.name for f in fields(cls)}
        for key in config:
            if key not in known:
                raise unknown("protocol key", key, known)
        return cls(**config)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be saved with a result."""
        values = asdict(self)
        if self.attribute is None:  # so that protocols without an attribute keep their id
            del values["attribute"]
        return {**values, "metrics": list(self.metrics), "sets": list(self.sets), "split": dict(self.split)}

    @property
    def id(self) -> str:
        """Name and 8 hexadecimal digits of the hash of all fields."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def preparation(self) -> str:
        """Describes how images are prepared before they are measured; part of the key of cached statistics."""
        return f"{self.resolution}-{self.filter}-{'aa' if self.antialias else 'noaa'}-{self.rounding}"

    def choose(self, names: Iterable[str]) -> list[str]:
        """The protocol's images among `names` (`oodgan.data.names.short`), sorted.

        Raises:
            UserError: none of them, or fewer than `count`.
        """
        from hydra.utils import instantiate

        from oodgan.data.splits import assign, stable_fraction

        names = sorted(names)
        parts = assign(instantiate(dict(self.split)), names)
        chosen = [name for name, part in zip(names, parts, strict=True) if part == self.part]
        if not chosen:
            raise UserError(f"none of the {len(names)} photos is in the {self.part!r} part of protocol {self.name}")
        if self.count is None:
            return chosen
        if len(chosen) < self.count:
            raise UserError(f"protocol {self.name} asks for {self.count} photos, only {len(chosen)} are there")
        chosen.sort(key=lambda name: stable_fraction(f"{self.seed}/{bare(name)}"))
        return sorted(chosen[: self.count])

    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 3, R, R) in [-1, 1], rounded and resized as the protocol says."""
        images = self._round(images)
        if images.shape[-1] != self.resolution:
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size, mode=self.filter, antialias=self.antialias, align_corners=False)
            images = self._round(images.clamp(-1, 1))
        return images

    def _round(self, images: Tensor) -> Tensor:
        return to_uint8(images).float() / 127.5 - 1 if self.rounding == "8bit" else images


def same_protocol(results: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuses a table of results (label, protocol values) measured by different protocols.

    Raises:
        UserError: naming both results and the first field that differs.
    """
    first: tuple[str, Mapping[str, Any]] | None = None
    for label, values in results:
        if first is None:
            first = (label, values)
            continue
        for key in sorted(set(values) | set(first[1])):
            if values.get(key) != first[1].get(key):
                raise UserError(
                    f"{first[0]} and {label} were measured by different protocols and share no table: "
                    f"{key} is {first[1].get(key)} and {values.get(key)}"
                )
