"""The face parser as used by the rest of the package: photo -> parts of the face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.nn.resize import resize_area
from oodgan.parsing.classes import NAMES, celebamask, numbers
from oodgan.parsing.reach import Limits, Redrawn, colour_change, objects
from oodgan.tracking.artifacts import plain
from oodgan.weights import trained

_PALETTE = torch.tensor(
    [
        (20, 20, 20), (226, 178, 150), (200, 130, 100), (60, 220, 230), (50, 90, 255), (120, 70, 30), (255, 160, 60),
        (255, 255, 255), (230, 40, 80), (170, 20, 60), (140, 90, 200), (40, 160, 60), (255, 225, 40), (190, 150, 120),
        (110, 130, 150),
    ]
)  # fmt: skip


class Parser(nn.Module):
    """A trained face parser.

    Args:
        network: classifies pixels (`oodgan.parsing.network.ParserNetwork`).
        size: input resolution, pixels.
        limits: parts that the mask of each attribute may cover; None: the default for all attributes.
        foreign: mean difference in colour (images in [-1, 1]) between a photo and the image of its code alone, above
            which pixels that the network does not classify with confidence are an object that the generator cannot
            draw.

    Example::

        parser = parsing.build(cfg["parser"])            # None for parser=none
        parser(photos)                                   # (B, K, 256, 256): probabilities of `parser.names`
        parser.classes(photos, 512)                      # (B, 512, 512): places in `parser.names`
        parser.celebamask(photos)                        # (B, 256, 256): CelebAMask-HQ's numbers
        parser.region(photos, ["hat", "glasses"], 1024)  # (B, 1, 1024, 1024) in [0, 1]
    """

    names = NAMES

    def __init__(self, network: nn.Module, size: int = 256, limits: Limits | None = None, foreign: float = 0.5) -> None:
        super().__init__()
        self.network, self.size, self.limits = network.eval(), size, limits or Limits()
        self.foreign = foreign

    @torch.no_grad()
    def forward(self, photos: Tensor, size: int | None = None) -> Tensor:
        """Aligned photos (B, 3, R, R) in [-1, 1] -> probabilities (B, K, size, size); `self.size` when None."""
        scores = self.network(resize_area(photos, self.size)).float()
        return _resized(scores, size or self.size).softmax(1)

    def classes(self, photos: Tensor, size: int | None = None) -> Tensor:
        """The likeliest class of each pixel, (B, size, size) int64, places in `names`."""
        return self(photos, size).argmax(1)

    def celebamask(self, photos: Tensor, size: int | None = None) -> Tensor:
        """Classify pixels with CelebAMask-HQ's numbers, the labels of `oodgan.metrics.regions` and `RegionPSNR`.

        Both eyes have the number of the left eye, likewise brows and ears; jewellery has that of earrings.
        """
        return celebamask(self.classes(photos, size))

    def region(self, photos: Tensor, names: Iterable[str], size: int | None = None) -> Tensor:
        """Return the probability that a pixel has one of these classes: (B, 1, size, size).

        Raises UserError for a name that is no class.
        """
        return self(photos, size)[:, numbers(names)].sum(1, keepdim=True).clamp(0, 1)

    def limit(self, photos: Tensor, masks: Tensor, edits: Mapping[str, float], before: Tensor, after: Tensor) -> Tensor:
        """Limit masks (B, 1, R, R) in [0, 1] of an edit of these photos to the parts that its attributes may cover.

        `edits` is {attribute: strength}; strengths of 0 are ignored. `before` and `after` (B, 3, R, R) are the images
        that the edit changes.
        """
        active = {name: strength for name, strength in edits.items() if strength}
        change = colour_change(before, after, self.size)
        return self.limits(self(photos), masks, active, change) if active else masks

    def redraws(self, edits: Mapping[str, float]) -> bool:
        """Return whether an edit removes or draws a part (glasses, an opened mouth) without the residual."""
        reaches = [(self.limits.of(name), strength) for name, strength in edits.items()]
        return any(
            (strength < 0 and reach.removes) or (strength > 0 and (reach.redraws or reach.recolours))
            for reach, strength in reaches
        )

    def redrawn(self, photos: Tensor, edits: Mapping[str, float], before: Tensor, after: Tensor) -> Redrawn:
        """Return where an edit removes or draws a part without the photo's residual.

        What it draws excludes objects that the generator cannot draw, such as a finger over the mouth.

        Args:
            photos: (B, 3, R, R) in [-1, 1].
            edits: {attribute: strength}.
            before, after: images of the photos' codes before and after the edit, without residuals, of at least the
                parser's size.
        """
        parts, edited = self(photos), self(after)
        removed = self.limits.removed(parts, edits, colour_change(before, after, self.size))
        kept = objects(parts, colour_change(before, photos, self.size), self.foreign)
        drawn = self.limits.redrawn(parts, edited, edits) * (1 - kept)
        return Redrawn(torch.maximum(removed, drawn), *self.limits.recoloured(parts, edited, edits))


def coloured(classes: Tensor) -> Tensor:
    """Classes (B, H, W) -> images (B, 3, H, W) in [-1, 1], one colour per class; black if unknown."""
    colours = _PALETTE.to(classes.device)[classes.clamp(min=0)].movedim(-1, 1)
    return torch.where(classes[:, None] < 0, 0, colours) / 127.5 - 1


def build(cfg: Mapping[str, Any] | None) -> Parser | None:
    """The parser of a config group `parser` with its weights; None for `parser=none`.

    Raises UserError for weights that are missing or of other classes.
    """
    if not chosen(cfg):
        return None
    assert cfg is not None
    limits = Limits.from_config(cfg.get("reach"), cfg.get("feather", 0.01))
    foreign = float(cfg.get("foreign", 0.5))
    if foreign <= 0:
        raise UserError(f"parser.foreign={foreign}: a difference in colour above 0 expected (images are in [-1, 1])")
    return Parser(load_network(cfg), cfg["size"], limits, foreign).eval()


def chosen(cfg: Mapping[str, Any] | None) -> bool:
    """Return whether a config group `parser` has a parser; `parser=none` has not."""
    return bool(cfg and cfg.get("network"))


def decisive(cfg: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parser settings that results depend on: {"parser": ...}; empty for `parser=none`."""
    if not chosen(cfg):
        return {}
    assert cfg is not None
    settings = {key: plain(cfg.get(key)) for key in ("network", "size", "reach", "feather", "foreign")}
    return {"parser": {**settings, "weights": trained.weights_hash(trained.configured(cfg, "parser", "parser"))}}


def load_network(cfg: Mapping[str, Any]) -> nn.Module:
    """The network of a config group `parser` with its weights."""
    source = trained.configured(cfg, "parser", "parser")
    tensors, metadata = trained.load(source, "parser")
    if tuple(metadata.get("classes") or ()) != NAMES:
        theirs = ", ".join(metadata.get("classes") or ["none"])
        raise UserError(f"the parser {source} has the classes {theirs}; {', '.join(NAMES)} are needed")
    network = trained.network(cfg["network"], metadata, source, classes=len(NAMES), pretrained=False)
    network.load_state_dict(tensors)
    return network


def _resized(scores: Tensor, size: int) -> Tensor:
    same = scores.shape[-1] == size
    return scores if same else F.interpolate(scores, (size, size), mode="bilinear", align_corners=False)
