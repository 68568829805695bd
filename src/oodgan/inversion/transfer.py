"""Transfer: what happens to the residuals of an inversion when its code is edited.

A residual represents what the photo shows and its code does not. Hats and hands should be kept; the old appearance of
regions that the edit redraws should not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.feature import deviation
from oodgan.inversion.transfer_network import TransferNetwork
from oodgan.inversion.value import Inversion
from oodgan.weights import trained

PART = "transfer"
"""The part that weights of a transfer network name."""


class Transfer(Protocol):
    """Computes the residuals of an edited code."""

    def __call__(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        """Returns the edited inversion: the codes `edited` (B, L, 512) with the residuals to use with them."""
        ...


class Whole:
    """Keeps the residuals unchanged: closest to the photo, but also weakens edits most."""

    def __call__(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        return Inversion(edited, inversion.residuals)


class Fade:
    """Fades the residuals where the edit changes the activations most.

    Args:
        quantile: quantile of the change over positions, above which the residual is removed.
        floor: fraction of that change below which the residual is kept; linear in between.
        strength: 1: fade completely; 0: not at all.
    """

    def __init__(self, quantile: float = 0.97, floor: float = 0.4, strength: float = 1.0) -> None:
        if not (0 < quantile <= 1 and 0 <= floor < 1 and 0 <= strength <= 1):
            raise UserError(
                f"transfer: quantile={quantile}, floor={floor}, strength={strength}: (0, 1], [0, 1) and [0, 1] expected"
            )
        self.quantile, self.floor, self.strength = quantile, floor, strength

    @torch.no_grad()
    def __call__(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        if not inversion.residuals or torch.equal(edited, inversion.w_plus):
            return Inversion(edited, inversion.residuals)
        last = max(inversion.residuals)
        before = generator.features(inversion.w_plus, last=last)
        after = generator.features(edited, last=last)
        faded = {
            r: residual * (1 - self.strength * self._changed(before[r], after[r]))
            for r, residual in inversion.residuals.items()
        }
        return Inversion(edited, faded)

    def _changed(self, before: Tensor, after: Tensor) -> Tensor:
        """How much each position changes, (B, 1, r, r) in [0, 1]."""
        change = (after - before).abs().mean(1, keepdim=True) / deviation(before)
        change = F.avg_pool2d(change, 3, 1, 1, count_include_pad=False)
        high = change.flatten(1).quantile(self.quantile, dim=1)[:, None, None, None].clamp(min=1e-6)
        return ((change - self.floor * high) / ((1 - self.floor) * high)).clamp(0, 1)


class Learned(nn.Module):
    """A network predicts the new residual from the residual and the activations before and after the edit.

    The network is trained by `oodgan transfer` on samples whose edited image is known. Where an edit changes no
    activations the residual stays as it is.

    Args:
        network: the trained network.
        strength: fraction of its change of the residual that is applied, in (0, 1].

    Raises:
        UserError: `strength` outside of that.
    """

    def __init__(self, network: TransferNetwork, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 < strength <= 1:
            raise UserError(f"transfer.strength={strength}: above 0 and at most 1 expected (0 is transfer=whole)")
        self.network, self.strength = network.eval(), strength

    @torch.no_grad()
    def forward(self, generator: Generator, inversion: Inversion, edited: Tensor) -> Inversion:
        resolution = self.network.resolution
        if resolution not in inversion.residuals or torch.equal(edited, inversion.w_plus):
            return Inversion(edited, inversion.residuals)
        before, after = (generator.features(w, last=resolution)[resolution] for w in (inversion.w_plus, edited))
        residual = inversion.residuals[resolution]
        changed = torch.lerp(residual, follow(self.network, residual, before, after), self.strength)
        return Inversion(edited, {**inversion.residuals, resolution: changed})


def follow(network: nn.Module, residual: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Residual and activations (B, C, r, r) in the generator's units -> the residual to use after the edit."""
    unit = deviation(before)
    return unit * network(residual / unit, before / unit, after / unit)


def build(cfg: Mapping[str, Any] | None, generator: Generator, residual: bool = True) -> Transfer:
    """Build the transfer of a config group `transfer`; `Whole` if there is none.

    Args:
        residual: whether the inverter gives residuals. Without them there is nothing to transfer and no weights are
            loaded.

    Raises:
        UserError: weights that are missing, or were made for another generator.
    """
    from hydra.utils import instantiate

    if not cfg or not residual:
        return Whole()
    if cfg.get("network"):
        return Learned(load_network(cfg, generator), float(cfg.get("strength", 1.0)))
    return instantiate(cfg, _partial_=True)()


def build_network(
    cfg: Mapping[str, Any], generator: Generator, metadata: Mapping[str, Any] | None = None
) -> TransferNetwork:
    """The network of a config group `transfer`, with fresh weights.

    Raises:
        UserError: the generator has no activations of that resolution.
    """
    resolution = int(cfg["network"]["resolution"])
    if resolution not in generator.feature_channels:
        have = ", ".join(map(str, generator.feature_channels))
        raise UserError(f"transfer.network.resolution={resolution}: this generator has activations at {have}")
    channels = generator.feature_channels[resolution]
    return trained.network(cfg["network"], metadata or {}, cfg.get("weights") or "", channels=channels)


def load_network(cfg: Mapping[str, Any], generator: Generator) -> TransferNetwork:
    """The network of a config group `transfer` with its weights; errors as in `build`."""
    source = trained.configured(cfg, "transfer", "transfer")
    tensors, metadata = trained.load(source, PART, generator=generator.id)
    network = build_network(cfg, generator, metadata)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"the weights {source} do not fit this transfer network: {text}") from error
    return network
