"""Losses of the face parser besides torch's own."""

from __future__ import annotations

from torch import Tensor, nn

from oodgan.parsing.classes import UNKNOWN


class DiceLoss(nn.Module):
    """1 - soft Dice, mean over the classes that the batch holds: small classes count as much as large ones.

    Args of a call: scores (B, K, H, W), logits; classes (B, H, W), `UNKNOWN` ones passed over.
    """

    def forward(self, scores: Tensor, classes: Tensor) -> Tensor:
        known = classes != UNKNOWN
        probabilities = scores.float().softmax(1) * known[:, None]
        index = classes.clamp(min=0)
        right = probabilities.gather(1, index[:, None]).flatten()
        count = scores.shape[1]
        overlap = right.new_zeros(count).index_add(0, index.flatten(), right)
        size = right.new_zeros(count).index_add(0, index.flatten(), known.flatten().to(right))
        dice = (2 * overlap + 1) / (probabilities.sum((0, 2, 3)) + size + 1)
        present = size > 0
        return 1 - dice[present].sum() / present.sum().clamp(min=1)
