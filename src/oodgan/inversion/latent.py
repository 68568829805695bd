"""e4e's latent discriminator: the encoder's codes shall look like codes that the generator's mapping gives.

Tov et al. 2021, section 4.1.2: an edit that was found on w holds on a code of W+ as far as each of its layers lies
where w lies. A small network is trained to tell the layers' codes from sampled w, the encoder to deceive it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import Generator
from oodgan.inversion.module import InversionModule
from oodgan.training.manual import optimise

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


class AdversarialInversionModule(InversionModule):
    """`InversionModule` with one loss more, `latent`, and a second optimiser for the discriminator behind it.

    Every layer's code of a photo is one fake, and as many w of fresh z are the real ones (e4e also keeps a pool of 50
    earlier fakes; it is left out). `val/loss` leaves `latent` out: it says how the two networks stand to each other.

    Args:
        lr_latent: learning rate of the discriminator; None: that of the encoder.
        others: as of `InversionModule`; `losses` names a `latent` above 0.
    """

    automatic_optimization = False

    def __init__(
        self,
        encoder: nn.Module,
        generator: Generator,
        losses: Mapping[str, float] | None = None,
        *,
        lr_latent: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(encoder, generator, losses, **others)
        self.discriminator = LatentDiscriminator(generator.style_dim)
        self.lr_latent = lr_latent or self.lr
        self._fakes: Tensor | None = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        optimisers: Any = self.optimizers()
        first, second = optimisers
        parts: dict[str, Tensor] = {}

        def loss() -> Tensor:
            parts.update(self._losses(self.encoder, batch))
            return self._total(parts)

        total = optimise(self, first, loss, batch_idx)
        fakes, self._fakes = self._fakes, None
        assert fakes is not None
        real = self._in_deviations(self._sampled(len(fakes)))
        wrong = optimise(
            self, second, lambda: discriminator_loss(self.discriminator, real, fakes), batch_idx, counts=False
        )
        self.log_training({**parts, "loss": total, "discriminator": wrong}, batch_idx)
        if (batch_idx + 1) % getattr(self.trainer, "manual_accumulate", 1) == 0:
            schedules: Any = self.lr_schedulers()
            for schedule in schedules:
                schedule.step()
        return total

    def configure_optimizers(self) -> Any:
        own = super().configure_optimizers()
        # Its schedule is the encoder's, so that both come to rest together.
        other = torch.optim.Adam(self.discriminator.parameters(), self.lr_latent)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(other, self.max_steps)
        return [own["optimizer"], other], [own["lr_scheduler"]["scheduler"], schedule]

    def _offset_losses(self, offsets: Tensor) -> dict[str, Tensor]:
        found = super()._offset_losses(offsets)
        if self.training:
            codes = (offsets / self.deviation).flatten(0, 1)
            found["latent"] = F.softplus(-self.discriminator(codes)).mean()
            self._fakes = codes.detach()
        return found

    @torch.no_grad()
    def _sampled(self, count: int) -> Tensor:
        z = torch.randn(count, self.generator.style_dim, device=self.device)
        return self.generator.mapping(z)

    def _in_deviations(self, codes: Tensor) -> Tensor:
        return (codes - self.generator.mean_w) / self.deviation


def build(
    encoder: nn.Module, generator: Generator, losses: Mapping[str, float], lr_latent: float | None = None, **others: Any
) -> InversionModule:
    """The training module for these losses: with the discriminator only where `latent` is above 0."""
    if losses.get("latent"):
        return AdversarialInversionModule(encoder, generator, losses, lr_latent=lr_latent, **others)
    return InversionModule(encoder, generator, losses, **others)
