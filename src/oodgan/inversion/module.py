"""Training of encoders: first on exact codes of samples, then on images of real faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.generators.protocol import Generator
from oodgan.inversion.augment import occlude
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area
from oodgan.training.module import Config, FitModule, built

LOSSES: Config = {
    "code": {"_target_": "oodgan.inversion.losses.CodeLoss"},
    "l2": {"_target_": "torch.nn.MSELoss"},
    "lpips": {"_target_": "oodgan.metrics.lpips.LPIPSLoss", "weight": 0.8},
    "identity": {"_target_": "oodgan.nn.facenet.IdentityLoss", "weight": 0.5},
}
DISCRIMINATOR: Config = {"_target_": "oodgan.inversion.latent.LatentDiscriminator"}
DISCRIMINATOR_LOSS: Config = {"_target_": "oodgan.inversion.latent.discriminator_loss", "_partial_": True}


class InversionModule(FitModule):
    """Trains an encoder whose output is offsets to `generator.mean_w`.

    A batch has `code` with precomputed `features`, and/or `image` in [-1, 1] with the exact code `w_plus` in rows where
    `has_w_plus` is true. Losses may use

    - `offsets` (B, L, 512), and their `error` to the exact code where it is `known` (B,), in units of w's deviation,
    - `result` and `target`: inversion and photo, (B, 3, S, S) in [-1, 1] with S = `size`, of batches with images,
    - `logits` of the latent discriminator (`oodgan.inversion.latent`): the code of each layer is one fake, and the same
      number of sampled w are real.

    Args:
        network: the encoder (`oodgan.inversion.protocol.Encoder`).
        size: pixels at which photo and inversion are compared.
        passes: forward passes of the encoder.
        occlusion: fraction of training images that are partly covered in the input; the target is the uncovered image.
        others: arguments of `FitModule`; losses on code, pixels, LPIPS and identity if `losses` is None.
    """

    measured = ()

    networks = ("network", "generator", "discriminator")
    deviation: Tensor

    def __init__(
        self,
        network: nn.Module | Config,
        generator: Generator | Config,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = 0.995,
        size: int = 256,
        passes: int = 1,
        occlusion: float = 0.0,
        discriminator: nn.Module | Config = DISCRIMINATOR,
        discriminator_optimizer: Config | Callable[..., Any] | None = None,
        discriminator_loss: Config | Callable[..., Tensor] = DISCRIMINATOR_LOSS,
    ) -> None:
        maker: Any = built(generator)
        encoder: Any = built(network)
        adversary = (discriminator, discriminator_optimizer, discriminator_loss)
        encoder.prepare(passes)
        super().__init__(encoder, losses or LOSSES, optimizer, scheduler, ema_decay, *adversary)
        self.generator: Any = Frozen(maker)
        self.size, self.passes, self.occlusion = min(size, maker.resolution), passes, occlusion
        with torch.no_grad():
            z = torch.randn(2000, maker.style_dim, generator=torch.Generator().manual_seed(1))
            deviation = maker.mapping(z.to(maker.mean_w.device)).std(0).mean()
        self.register_buffer("deviation", deviation.cpu())

    @property
    def encoder(self) -> Any:
        """The network that is trained."""
        return self.network

    def forward(self, photos: Tensor) -> Tensor:
        """Photos (B, 3, R, R) -> codes (B, L, 512), by the averaged weights."""
        averaged: Any = self.averaged
        return self.generator.mean_w + averaged.offsets(self.generator, photos, self.passes)

    def predictions(self, network: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        described = batch.get("features")
        offsets = network.head(described) if described is not None else self._encode(network, batch["image"])
        code, known = _exact_codes(batch, offsets)
        error = (self.generator.mean_w + offsets - code) / self.deviation
        predicted = {"offsets": offsets / self.deviation, "error": error, "known": known}
        if "image" in batch and (self.losses.need("result") or not self.training):
            predicted["target"] = resize_area(batch["image"], self.size)
            predicted["result"] = self.generator.synthesis(self.generator.mean_w + offsets, size=self.size)
        return predicted

    def real(self, known: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            z = torch.randn(len(self.fake(known)), self.generator.style_dim, device=self.device)
            return (self.generator.mapping(z) - self.generator.mean_w) / self.deviation

    def fake(self, known: Mapping[str, Tensor]) -> Tensor:
        return known["offsets"].flatten(0, 1)

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Images to show of a batch: photos and their inversions; none for a batch of codes."""
        if "image" not in batch:
            return {}
        inverted = self.generator.synthesis(self(batch["image"]), size=self.size).clamp(-1, 1)
        return {"photo": resize_area(batch["image"], self.size), "inverted": inverted}

    def _encode(self, encoder: Any, photos: Tensor) -> Tensor:
        if self.training and self.occlusion:
            photos = occlude(photos, probability=self.occlusion)
        return encoder.offsets(self.generator, photos, self.passes)


def _exact_codes(batch: Mapping[str, Any], offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact codes of a batch (B, L, 512), and which rows have one, (B,) of 0 and 1."""
    if "code" in batch:
        return batch["code"], offsets.new_ones(len(offsets))
    known = batch.get("has_w_plus", offsets.new_zeros(len(offsets)))
    return batch.get("w_plus", torch.zeros_like(offsets)), known.to(offsets)
