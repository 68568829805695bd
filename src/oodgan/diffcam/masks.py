"""(inverted, edited) -> mask in [0, 1] of what the edit changed, from Diff-CAM's maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.diffcam.network import DiffCAM, normalise_maps
from oodgan.directions.bank import Bank
from oodgan.errors import UserError, unknown
from oodgan.generators.protocol import Generator
from oodgan.nn.resize import blur, shrink
from oodgan.weights import trained

KINDS = ("guided", "paper", "everywhere")
_WORK = 256  # resolution of mask refinement, pixels
_TAIL = 0.1  # fraction of a region's peak; lower values are occasional changes


class Masker(nn.Module):
    """Converts Diff-CAM's maps to a mask.

    `paper`: the named classes' CAMs, normalised and resized as published, the largest of them for several names.

    `everywhere`: 1 all over the image, to see what a mask brings.

    `guided`: each class's map, at the finest layer's size, times the region in which this edit changes faces
    consistently, times where these two images do differ; several names are united by maximum, each on its own scale;
    then a soft threshold, an edge-aware refinement along the photo's contours (guided filter, He et al. 2013) and a
    feather. It depends on where the edit is, not on how strong it is.

    Args:
        network: the trained Diff-CAM, with input resolution `size`.
        names: direction names in class order.
        regions: (K, r, r) in [0, 1], needed by `guided`.
        threshold, sharpness: parameters of the soft threshold.
        thresholds: thresholds of single attributes instead of `threshold`, {direction or class: value}.
        feather: width of the final blur, as a fraction of the image's width.
        strength: factor of the mask, which is clipped at 1.
        aliases: other names of classes, {direction: class}; case is ignored.
    """

    def __init__(
        self,
        network: DiffCAM,
        names: Sequence[str],
        regions: Tensor | None = None,
        size: int = 128,
        kind: str = "guided",
        threshold: float = 0.25,
        sharpness: float = 12.0,
        feather: float = 0.01,
        strength: float = 1.0,
        aliases: Mapping[str, str] | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("mask.kind", kind, KINDS)
        if kind == "guided" and regions is None:
            raise UserError("these Diff-CAM weights have no regions (imported ones): use diffcam.mask.kind=paper")
        classes = {spelled: i for i, name in enumerate(names) for spelled in (name, name.lower())}
        classes |= {name: classes[kept] for name, kept in (aliases or {}).items() if kept in classes}
        self.classes, self.names = classes, tuple(classes)
        self.network, self.size, self.kind = network.eval(), size, kind
        self.sharpness, self.feather, self.strength = sharpness, feather, strength
        own: dict[int, float] = {}
        for name, value in (thresholds or {}).items():
            if name not in classes:
                raise unknown("diffcam.mask.thresholds", name, sorted(classes))
            own[classes[name]] = value
        self.thresholds = [own.get(i, threshold) for i in range(len(names))]
        self.register_buffer("regions", regions)

    @torch.no_grad()
    def forward(
        self,
        inverted: Tensor,
        edited: Tensor,
        names: Sequence[str],
        photo: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """Images (B, 3, R, R) in [-1, 1] and the edit's names -> mask (B, 1, R, R) in [0, 1].

        Args:
            maps: maps (B, K, h, w) of all classes from `look`, to avoid a second forward pass.

        Raises UserError for a name that Diff-CAM was not trained on.
        """
        if not names:
            raise UserError("a mask needs at least one direction name")
        classes = [self._class(name) for name in names]
        if self.kind == "everywhere":
            return torch.full_like(edited[:, :1], min(self.strength, 1.0))
        chosen = self._maps(inverted, edited, classes)[1] if maps is None else maps[:, classes]
        if self.kind == "paper":
            cams = normalise_maps(chosen, tuple(edited.shape[2:]))  # type: ignore[arg-type]
            mask = cams.amax(1, keepdim=True)
        else:
            mask = self._guided(chosen, classes, inverted, edited, inverted if photo is None else photo)
        return mask if self.strength == 1 else (mask * self.strength).clamp(0, 1)

    @torch.no_grad()
    def look(self, inverted: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
        """Return Diff-CAM's logits (B, K) and maps (B, K, h, w) of all classes; `inverted` may have batch size 1."""
        return self._maps(inverted, edited, None)

    def _maps(self, inverted: Tensor, edited: Tensor, classes: list[int] | None) -> tuple[Tensor, Tensor]:
        small, small_edited = (shrink(x, self.size) for x in (inverted, edited))
        return self.network.maps(small, small_edited, classes)

    def adjusted(self, **settings: float) -> Masker:
        """The same masker with other settings, e.g. `strength` and `feather`; both share one network."""
        other = copy.copy(self)
        for name, value in settings.items():
            setattr(other, name, value)
        return other

    def _guided(self, maps: Tensor, classes: list[int], inverted: Tensor, edited: Tensor, photo: Tensor) -> Tensor:
        work = min(_WORK, edited.shape[-1])
        chosen = _resize(maps.clamp(min=0), work)
        cams = (chosen / _top(chosen)).clamp(max=1)
        regions = _resize(self.regions[classes][None].to(maps), work)  # type: ignore[index]
        regions = ((regions - _TAIL) / (1 - _TAIL)).clamp(min=0)
        before, after = shrink(inverted, work), shrink(edited, work)
        changed = blur((after - before).abs().mean(1, keepdim=True), work // 64)
        changed = (changed / _top(changed * regions)).clamp(max=1)  # (B, K, H, W): relative to each region's change
        evidence = regions * (0.5 + 0.5 * cams) * (0.4 + 0.6 * changed)
        middle = torch.tensor([self.thresholds[i] for i in classes]).to(maps)[:, None, None]
        low = torch.sigmoid(-self.sharpness * middle)
        steps = (torch.sigmoid(self.sharpness * (evidence - middle)) - low) / (1 - low)  # no evidence, no mask
        mask = steps.amax(1, keepdim=True).clamp(0, 1)
        mask = guided_filter(shrink(photo, work).mean(1, keepdim=True), mask, radius=max(1, work // 42)).clamp(0, 1)
        mask = blur(mask, round(self.feather * work))
        return _resize(mask, edited.shape[-1]).clamp(0, 1)

    def _class(self, name: str) -> int:
        if name not in self.classes:
            raise unknown("direction for this Diff-CAM", name, self.names)
        return self.classes[name]


Loaded = tuple[DiffCAM, Tensor | None, list[str]]


def build(cfg: Mapping[str, Any], generator: Generator, bank: Bank, loaded: Loaded | None = None) -> Masker:
    """Build the masker of a config group `diffcam` with its weights, or with a network from `load_network`.

    Raises UserError for weights that are missing or made for another generator or other directions.
    """
    network, regions, names = loaded or load_network(cfg, generator.id)
    settings = {"aliases": cfg.get("aliases"), **dict(cfg.get("mask") or {})}
    return Masker(network, names or bank.names, regions, cfg["size"], **settings)


def load_network(cfg: Mapping[str, Any], generator: str | None = None) -> Loaded:
    """The network of a config group `diffcam` with its weights, their regions, and the names of their classes."""
    source = trained.configured(cfg, "diffcam", "diffcam")
    weights, metadata = trained.load(source, "diffcam", generator=generator)
    tensors = {name.removeprefix("network."): value for name, value in weights.items()}
    regions = tensors.pop("regions", None)
    network = trained.network(cfg["network"], metadata, source, num_classes=len(tensors["fc.bias"]))
    network.load_trained(tensors)
    return network.eval(), regions, list(metadata.get("directions") or [])


def guided_filter(guide: Tensor, mask: Tensor, radius: int, epsilon: float = 0.01) -> Tensor:
    """Make `mask` follow the edges of `guide` (both (B, 1, H, W)); a local linear model in boxes of `radius`."""
    mean_guide, mean_mask = blur(guide, radius), blur(mask, radius)
    variance = blur(guide * guide, radius) - mean_guide.square()
    slope = (blur(guide * mask, radius) - mean_guide * mean_mask) / (variance + epsilon)
    offset = mean_mask - slope * mean_guide
    return blur(slope, radius) * guide + blur(offset, radius)


def _top(x: Tensor) -> Tensor:
    """The 98th percentile of each map (B, C, 1, 1), never 0."""
    flat = x.flatten(2)
    return flat.quantile(0.98, dim=2)[..., None, None].clamp(min=1e-6)


def _resize(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False) if x.shape[-1] != size else x
