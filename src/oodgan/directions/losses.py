"""Losses on the scores of attribute probes.

By default they use the same probes as the search of strengths (`search`), not those that evaluate results. The feature
extractor is not a submodule: it stays out of optimisers and checkpoints and moves to the images' device.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from oodgan.directions.features import Extractor
from oodgan.directions.probes import SEEKING_PROBES, Probes


class _Scores(nn.Module):
    def __init__(self, probes: str | Path | None = None) -> None:
        super().__init__()
        self.probes = Probes.load(probes or SEEKING_PROBES)
        self._extractor = [Extractor(self.probes.backbone, self.probes.size).requires_grad_(False)]

    def scores(self, images: Tensor) -> Tensor:
        """(B, 3, R, R) in [-1, 1] -> (B, K), in standard deviations, up to a constant."""
        extractor, weights = self._extractor[0].to(images.device), self.probes.weights.to(images.device)
        with torch.autocast(images.device.type, enabled=False):  # a sum over 20,000 features: bfloat16 is too coarse
            return extractor(images.float()) @ weights


class AttributeLoss(_Scores):
    """Mean absolute difference of the scores of two images, over all attributes.

    Args:
        probes: a file of probes.
    """

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        """(B, 3, R, R) in [-1, 1] each -> scalar; the gradient goes to `result` only."""
        with torch.no_grad():
            wanted = self.scores(target)
        return (self.scores(result) - wanted).abs().mean()


class ChangeLoss(_Scores):
    """Hinge loss on the share of an edit that the result shows: max(0, 1 - share), mean over images.

    Let c be the change of the scores from the inverted to the edited image, and r the change from the photo to the
    result. The share is <r, c> / <c, c>: 1 if the result changes the same attributes by as much as the edit.

    Args:
        probes: a file of probes.
        floor: lower bound of <c, c>, so that edits that change nothing have no effect.
    """

    inputs = ("result", "photo", "edited", "inverted")

    def __init__(self, probes: str | Path | None = None, floor: float = 0.25) -> None:
        super().__init__(probes)
        self.floor = floor

    def forward(self, result: Tensor, photo: Tensor, edited: Tensor, inverted: Tensor) -> Tensor:
        """(B, 3, R, R) in [-1, 1] each -> scalar; the gradient goes to `result` only."""
        with torch.no_grad():
            change = self.scores(edited) - self.scores(inverted)
            start = self.scores(photo)
        energy = change.square().sum(1)
        share = ((self.scores(result) - start) * change).sum(1) / energy.clamp(min=self.floor)
        return (torch.clamp(1 - share, min=0) * (energy > self.floor)).mean()
