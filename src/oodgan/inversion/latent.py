"""e4e's latent discriminator: the encoder's codes shall look like codes that the generator's mapping gives.

Tov et al. 2021, section 4.1.2: an edit that was found on w holds on a code of W+ as far as each of its layers lies
where w lies. A small network is trained to tell the layers' codes from sampled w, the encoder to deceive it
(`oodgan.inversion.losses.LatentLoss`). e4e also keeps a pool of 50 earlier fakes; it is left out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAMMA = 10.0
"""Weight of R1, as published."""


class LatentDiscriminator(nn.Module):
    """Single codes (N, 512), in deviations from the mean code, -> logits (N, 1): one of the mapping's, or made up?"""

    def __init__(self, style_dim: int = 512, width: int = 512, layers: int = 4) -> None:
        super().__init__()
        sizes = [style_dim, *[width] * (layers - 1)]
        hidden = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(sizes)]
        self.network = nn.Sequential(*[layer for pair in hidden for layer in pair], nn.Linear(width, 1))

    def forward(self, codes: Tensor) -> Tensor:
        return self.network(codes)


def discriminator_loss(network: nn.Module, real: Tensor, fake: Tensor, gamma: float = GAMMA) -> Tensor:
    """Non-saturating loss of telling real (N, 512) from fake codes (M, 512), and R1: gamma / 2 x E |grad D(real)|^2."""
    real = real.detach().requires_grad_(True)
    logits = network(real)
    wrong = F.softplus(-logits).mean() + F.softplus(network(fake.detach())).mean()
    if not gamma:
        return wrong
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return wrong + gamma / 2 * gradient.square().sum(1).mean()
