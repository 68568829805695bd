"""Quality of the masks of each attribute, on held-out samples and on real photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodgan.compose import compose
from oodgan.diffcam.masks import Masker
from oodgan.directions.bank import Bank
from oodgan.evaluation.intervals import bootstrap, edit_kept
from oodgan.generators.protocol import Generator, sample_codes
from oodgan.inversion.transfer import Transfer, Whole
from oodgan.inversion.value import Inversion
from oodgan.metrics.masks import MaskArea, MaskIoU, MaskShareInside, MaskShareOnParts
from oodgan.metrics.regions import PARTS, ConsistentChange, activations
from oodgan.nn.resize import shrink
from oodgan.parsing.parser import Parser

HELD_OUT = 2**40  # first seed of the held-out samples, far above all training seeds
SIDE = 64  # resolution of the masks compared with the regions, pixels
CONSISTENT, ON_PARTS, KEPT, AREA, NAMED = "share_consistent_15", "share_on_parts", "edit_kept", "area", "named_right"
IOU = "iou_consistent_15"

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """A masker, the composition used with it (a mode of `oodgan.compose.compose`), and the parser that limits its
    masks, if any."""

    masker: Masker
    mode: str
    parser: Parser | None = None


@dataclass(frozen=True)
class Face:
    """One face to edit: its inversion, and for photos the photo (1, 3, R, R) and parsing classes (1, h, w)."""

    code: Inversion
    photo: Tensor | None = None
    labels: Tensor | None = None


@dataclass
class Observed:
    """Measurements of one attribute and one kind of masks: lists with one value per face."""

    masks: list[Tensor] = field(default_factory=list)
    named: list[float] = field(default_factory=list)
    on_parts: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    wanted: list[float] = field(default_factory=list)


class MaskQuality:
    """Edits faces along each attribute and measures the masks.

    Images are decoded at `size`. Masks are stored at 64 px: 16 kB per face, attribute and kind.

    Args:
        kinds: name -> kind of masks.
        attributes: names of the bank's directions that the maskers know.
        scores: attribute -> probe of pictures (B, 3, R, R) -> (B,); attributes without one have no `edit_kept`.
        strength: strength of every edit; 1 is the calibrated one.
        transfer: what happens to residuals when the code is edited; None: unchanged.
    """

    def __init__(
        self,
        generator: Generator,
        bank: Bank,
        kinds: Mapping[str, Kind],
        attributes: Sequence[str],
        scores: Mapping[str, Score],
        size: int = 256,
        strength: float = 1.0,
        transfer: Transfer | None = None,
    ) -> None:
        self.transfer = transfer or Whole()
        self.generator, self.bank, self.kinds, self.attributes = generator, bank, kinds, list(attributes)
        self.scores, self.strength, self.size = scores, strength, min(size, generator.resolution)
        self.side = min(SIDE, self.size)
        self.consistent = {name: ConsistentChange(self.side) for name in attributes}
        self.observed = {name: {kind: Observed() for kind in kinds} for name in attributes}
        self._sum, self._faces = torch.zeros(3, self.size, self.size), 0

    def held_out(self, count: int, seed: int = 0, truncation: float = 0.7) -> Iterable[Face]:
        """Samples of seeds that no training draws from."""
        for i in range(count):
            code = sample_codes(self.generator, 1, HELD_OUT + seed * 1_000_003 + i, truncation)
            yield Face(Inversion(code))

    @torch.no_grad()
    def see(self, face: Face) -> None:
        """Edit one face along every attribute."""
        inverted = self._decode(face.code)
        photo = inverted if face.photo is None else shrink(face.photo, self.size)
        before = activations(inverted)
        self._sum, self._faces = self._sum + inverted[0].cpu(), self._faces + 1
        steps = [self.bank.apply(face.code.w_plus, {name: self.strength}) for name in self.attributes]
        edits = [self._decode(self.transfer(self.generator, face.code, edited)) for edited in steps]
        looks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # maskers that share a network need one forward pass
        for masker in (kind.masker for kind in self.kinds.values()):
            network = (id(masker.network), masker.size)
            looks[network] = looks.get(network) or masker.look(inverted, torch.cat(edits))
        for i, (name, edited) in enumerate(zip(self.attributes, edits, strict=True)):
            self.consistent[name].add(before, activations(edited))
            looks_by_kind = {
                kind: [x[i : i + 1] for x in looks[id(made.masker.network), made.masker.size]]
                for kind, made in self.kinds.items()
            }
            self._measure(name, photo, inverted, edited, face.labels, looks_by_kind)

    def _measure(
        self,
        name: str,
        photo: Tensor,
        inverted: Tensor,
        edited: Tensor,
        labels: Tensor | None,
        looks: Mapping[str, Sequence[Tensor]],
    ) -> None:
        """`looks`: kind -> Diff-CAM's logits (1, K) and maps (1, K, h, w)."""
        pictures = [inverted, edited, photo]
        for kind, (logits, maps) in looks.items():
            masker, mode = self.kinds[kind].masker, self.kinds[kind].mode
            mask = masker(inverted, edited, [name], photo, maps)
            if (parser := self.kinds[kind].parser) is not None:
                mask = parser.limit(photo, mask, {name: self.strength}, inverted, edited)
            seen = self.observed[name][kind]
            seen.masks.append(shrink(mask, self.side)[0, 0].cpu())
            seen.named.append(float(int(logits.argmax(1)) == masker.classes[name]))
            if labels is not None and name.lower() in PARTS:
                seen.on_parts.append(float(MaskShareOnParts([name]).per_image(mask, labels)))
            pictures.append(compose(photo, inverted, edited, mask, mode=mode))
        if name not in self.scores:
            return
        before, after, start, *composed = self.scores[name](torch.cat(pictures)).double().tolist()
        for kind, score in zip(looks, composed, strict=True):
            self.observed[name][kind].wanted.append(after - before)
            self.observed[name][kind].done.append(score - start)

    def _decode(self, code: Inversion) -> Tensor:
        return code.image(self.generator, self.size)

    def regions(self) -> dict[str, Tensor]:
        """Return {attribute: boolean (64, 64)}: the 15 % of the pixels that it changes most consistently."""
        return {name: seen.region() for name, seen in self.consistent.items()}

    def summary(self, regions: Mapping[str, Tensor], samples: int = 1000, seed: int = 0) -> dict[str, dict[str, Any]]:
        """{attribute: {kind: {metric: {mean, low, high, count}}}} against `regions`; 95 % bootstrap intervals.

        `share_consistent_15`, `iou_consistent_15` (mask above 0.5): against the region; `share_on_parts`: of the mask's
        mass on the parts that the attribute is about; `edit_kept`: as `oodgan.evaluation.intervals.edit_kept`, of the
        composed picture; `area`; `named_right`: Diff-CAM named the edit.
        """

        def entry(values: Sequence[float] | Tensor) -> dict[str, Any]:
            known = np.array([float(v) for v in values if not math.isnan(v)])
            if not len(known):
                return {"count": 0}
            low, high = bootstrap(known, samples, 0.95, seed)
            return {"mean": float(known.mean()), "low": low, "high": high, "count": len(known)}

        result: dict[str, dict[str, Any]] = {}
        for name, kinds in self.observed.items():
            region = regions[name].cpu().float()[None, None]
            result[name] = {}
            for kind, seen in kinds.items():
                masks = torch.stack(seen.masks)[:, None]
                regions_of_all = region.expand_as(masks)
                result[name][kind] = {
                    CONSISTENT: entry(MaskShareInside().per_image(masks, regions_of_all)),
                    IOU: entry(MaskIoU().per_image(masks, regions_of_all)),
                    ON_PARTS: entry(seen.on_parts),
                    KEPT: edit_kept(np.array(seen.done), np.array(seen.wanted), samples, 0.95, seed),
                    AREA: entry(MaskArea().per_image(masks)),
                    NAMED: entry(seen.named),
                }
        return result

    @property
    def mean_face(self) -> Tensor:
        """Mean of the faces before the edits, (3, size, size) in [-1, 1]."""
        return self._sum / self._faces

    def mean_masks(self, name: str) -> dict[str, Tensor]:
        """Kind -> mean mask (64, 64) of an attribute."""
        return {kind: torch.stack(seen.masks).mean(0) for kind, seen in self.observed[name].items()}
