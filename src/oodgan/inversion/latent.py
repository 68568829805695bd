"""e4e's latent discriminator: makes the encoder's codes look like codes from the generator's mapping network.

Tov et al. 2021, section 4.1.2: an edit direction found in W works on a W+ code only if the code of each layer lies near
the distribution of w. A small network is trained to distinguish the layers' codes from sampled w, and the encoder is
trained against it (`oodgan.inversion.losses.LatentLoss`). e4e's pool of 50 earlier fakes is left out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAMMA = 10.0
"""Weight of R1, as published."""


class LatentDiscriminator(nn.Module):
    """Classifies codes (N, 512), normalised by the mean and deviation of w, as sampled or encoded: logits (N, 1)."""

    def __init__(self, style_dim: int = 512, width: int = 512, layers: int = 4) -> None:
        super().__init__()
        sizes = [style_dim, *[width] * (layers - 1)]
        hidden = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(sizes)]
        self.network = nn.Sequential(*[layer for pair in hidden for layer in pair], nn.Linear(width, 1))

    def forward(self, codes: Tensor) -> Tensor:
        return self.network(codes)


def discriminator_loss(network: nn.Module, real: Tensor, fake: Tensor, gamma: float = GAMMA) -> Tensor:
    """Non-saturating loss of real (N, 512) and fake codes (M, 512), plus R1: gamma / 2 x E |grad D(real)|^2."""
    real = real.detach().requires_grad_(True)
    logits = network(real)
    wrong = F.softplus(-logits).mean() + F.softplus(network(fake.detach())).mean()
    if not gamma:
        return wrong
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return wrong + gamma / 2 * gradient.square().sum(1).mean()
