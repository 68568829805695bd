"""Training of the feature encoder (`oodgan.inversion.feature`): image, perceptual, identity and latent losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.augment import occlude
from oodgan.inversion.feature import deviation, predict
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area
from oodgan.training.module import Config, FitModule, built

LOSSES: Config = {
    "l2": {"_target_": "torch.nn.MSELoss", "weight": 2.0},
    "lpips": {"_target_": "oodgan.metrics.lpips.LPIPSLoss", "weight": 1.0},
    "identity": {"_target_": "oodgan.nn.facenet.IdentityLoss", "weight": 0.3},
    "size": {"_target_": "oodgan.inversion.losses.ResidualLoss", "weight": 0.01},
    "activations": {"_target_": "oodgan.inversion.losses.ActivationLoss", "weight": 0.05},
}


class FeatureModule(FitModule):
    """Trains a feature encoder on photos, with codes from a frozen inverter.

    Losses may ask for

    - `result` and `target`: G(w+, residual) and photo, (B, 3, S, S) in [-1, 1], S being the encoder's `size`,
    - `residual` (B, C, r, r), in units of the activations' deviation,
    - `activation_error` (B, C, r, r): difference of the residual from the sample's true one, in the same units; 0 in
    rows
      of the batch whose exact code is unknown (`has_w_plus`).

    A fraction `occlusion` of the training images is partly covered after the code was computed, and the covered image
    is the target: the residual should represent what the code cannot. In training, the number of passes is drawn from 1
    to `passes` for each batch, followed by 0 to `exact` passes on full images. The result of a batch with such passes
    is its full image, reduced to S, otherwise its preview.

    `inverter` is needed to train, not to load a checkpoint: its weights are those of another training.
    """

    networks = ("network", "generator", "inverter", "discriminator")
    measured = ()

    def __init__(
        self,
        network: nn.Module | Config,
        generator: Generator | Config,
        inverter: nn.Module | None = None,
        losses: Config | None = None,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = 0.995,
        passes: int = 2,
        occlusion: float = 0.0,
        exact: int = 0,
    ) -> None:
        super().__init__(network, losses or LOSSES, optimizer, scheduler, ema_decay)
        self.generator: Any = Frozen(built(generator))
        self.inverter: Any = None if inverter is None else Frozen(inverter)
        self.passes, self.occlusion, self.exact = passes, occlusion, exact

    @property
    def encoder(self) -> Any:
        """The network that is trained."""
        return self.network

    def forward(self, photos: Tensor, w_plus: Tensor) -> Tensor:
        """Photos (B, 3, R, R) and their codes -> residuals (B, C, r, r), by the averaged weights."""
        encoder: Any = self.averaged
        return predict(encoder, self.generator, w_plus, photos, self.passes, self.exact).residual

    def predictions(self, network: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        photos = batch["image"]
        passes, exact = self.passes, self.exact
        if self.training:
            passes, exact = int(torch.randint(1, passes + 1, ())), int(torch.randint(exact + 1, ()))
        with torch.no_grad():
            w_plus = self._codes(photos)
        if self.training and self.occlusion:
            photos = occlude(photos, probability=self.occlusion)
        residual, base = predict(network, self.generator, w_plus, photos, passes, exact)
        residuals, size = {residual.shape[-1]: residual}, self.encoder.size
        image = self.generator.synthesis(w_plus, size=None if exact else size, residuals=residuals)
        return {
            "result": resize_area(image, size),
            "target": resize_area(photos, size),
            "residual": residual / deviation(base),
            "activation_error": self._activation_error(batch, residual, base),
        }

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Images to show of a batch: photos, inversions by code alone, and inversions with residual."""
        photos, size = batch["image"], self.encoder.size
        w_plus = self._codes(photos)
        residuals = {self.encoder.resolution: self(photos, w_plus)}
        images = {
            "code": self.generator.synthesis(w_plus, size=size).clamp(-1, 1),
            "inverted": self.generator.synthesis(w_plus, size=size, residuals=residuals).clamp(-1, 1),
        }
        return {"photo": resize_area(photos, size), **images}

    def _codes(self, photos: Tensor) -> Tensor:
        if self.inverter is None:
            raise UserError("this module has no inverter: give load_from_checkpoint(FILE, inverter=...) to train it")
        return self.inverter.invert(photos).w_plus

    def _activation_error(self, batch: dict[str, Any], residual: Tensor, base: Tensor) -> Tensor:
        error = torch.zeros_like(residual)
        given = batch.get("has_w_plus", torch.zeros(len(residual), dtype=torch.bool))
        known: Tensor = given.nonzero().flatten()
        if not len(known) or not self.losses.need("activation_error"):
            return error
        resolution = residual.shape[-1]
        with torch.no_grad():
            wanted = self.generator.features(batch["w_plus"][known], last=resolution)[resolution]
        return error.index_copy(0, known, ((base + residual)[known] - wanted) / deviation(base)[known])
