"""Losses of encoders besides image losses; codes are in units of the standard deviation of w."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class CodeLoss(nn.Module):
    """Mean square of the error (B, L, 512) to the exact code.

    Images with unknown code count as 0, so that several processes take the same step as one, however such images are
    distributed among them.
    """

    inputs = ("error", "known")

    def forward(self, error: Tensor, known: Tensor) -> Tensor:
        """error (B, L, 512), known (B,) of 0 and 1 -> scalar."""
        return (error.square().mean((1, 2)) * known).mean()


class NormLoss(nn.Module):
    """Mean square of the offsets from the mean code (pSp, section 3.3: w-norm regularisation)."""

    inputs = ("offsets",)

    def forward(self, offsets: Tensor) -> Tensor:
        """(B, L, 512) -> scalar."""
        return offsets.square().mean()


class DeltaLoss(nn.Module):
    """Mean square of each layer's difference from the mean layer (e4e, section 4.1.1)."""

    inputs = ("offsets",)

    def forward(self, offsets: Tensor) -> Tensor:
        """(B, L, 512) -> scalar."""
        return (offsets - offsets.mean(1, keepdim=True)).square().mean()


class LatentLoss(nn.Module):
    """Cross-entropy of classifying the layers' codes as sampled (e4e, section 4.1.2); logits (N, 1) -> scalar."""

    inputs = ("logits",)

    def forward(self, logits: Tensor) -> Tensor:
        return F.softplus(-logits).mean()


class ResidualLoss(nn.Module):
    """Mean square of a residual on activations (B, C, r, r), in units of their deviation."""

    inputs = ("residual",)

    def forward(self, residual: Tensor) -> Tensor:
        return residual.square().mean()


class ActivationLoss(nn.Module):
    """Mean square of the residual's error to a sample's own activations (B, C, r, r), in the same units."""

    inputs = ("activation_error",)

    def forward(self, error: Tensor) -> Tensor:
        return error.square().mean()
