"""Losses of the face parser besides torch's own."""

from __future__ import annotations

from torch import Tensor, nn

from oodgan.parsing.classes import UNKNOWN


class DiceLoss(nn.Module):
    """1 - soft Dice, averaged over the classes of each image and over images, so that small parts count equally.

    Args of a call: scores (B, K, H, W), logits; classes (B, H, W), `UNKNOWN` ones passed over.
    """

    def forward(self, scores: Tensor, classes: Tensor) -> Tensor:
        known = (classes != UNKNOWN).flatten(1)
        probabilities = scores.float().flatten(2).softmax(1) * known[:, None]
        index = classes.flatten(1).clamp(min=0)
        right = probabilities.gather(1, index[:, None])[:, 0]
        empty = right.new_zeros(scores.shape[:2])
        overlap, size = empty.scatter_add(1, index, right), empty.scatter_add(1, index, known.to(right))
        dice = (2 * overlap + 1) / (probabilities.sum(2) + size + 1)
        present = size > 0
        return 1 - ((dice * present).sum(1) / present.sum(1).clamp(min=1)).mean()
