"""The deghoster as the editor uses it: the fine image inside the mask, the photo's own pixels outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.deghost.network import Deghoster
from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.light import resize_area


class Remover(nn.Module):
    """Applies a trained deghoster and pastes its result into the photo.

    `paste=False` gives the published behaviour: the network's whole image, at whatever size it makes.
    """

    def __init__(self, network: nn.Module, paste: bool = True) -> None:
        super().__init__()
        self.network, self.paste = network.eval(), paste

    @torch.no_grad()
    def forward(
        self, *, coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, w_plus: Tensor
    ) -> Tensor:
        """Images (B, 3, R, R) in [-1, 1], mask (B, 1, R, R), the edited code (B, L, 512) -> result (B, 3, R, R)."""
        if isinstance(self.network, Deghoster):
            found = self.network(resize_area(coarse, self.network.in_size))
            if found.shape[-1] != coarse.shape[-1]:
                found = F.interpolate(found, coarse.shape[2:], mode="bicubic", align_corners=False)
            weight = (mask * 2).clamp(max=1)
        else:
            found = self.network(coarse, photo, inverted, edited, mask, w_plus)
            weight = (mask > 0).to(mask)
        found = found.clamp(-1, 1)
        return photo + weight * (found - photo) if self.paste else found


def build_network(cfg: Mapping[str, Any], generator: Generator) -> nn.Module:
    """The network of a config group `deghoster`, with fresh weights."""
    from hydra.utils import instantiate

    return instantiate(cfg["network"], generator=generator)


def build(cfg: Mapping[str, Any], generator: Generator) -> Remover | None:
    """The remover of a config group `deghoster` with its weights; None for `deghoster=none`.

    Raises UserError for weights that are missing or were made for another generator.
    """
    from oodgan.weights import trained

    if cfg.get("network") is None:
        return None
    if not cfg.get("weights"):
        raise UserError("deghoster has no weights: train them with oodgan deghost, or choose deghoster=none")
    tensors, _ = trained.load(cfg["weights"], "deghoster", generator=generator.id)
    network: Any = build_network(cfg, generator)
    try:
        network.load_trained(tensors)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"the weights {cfg['weights']} do not fit this deghoster: {text}") from error
    return Remover(network, bool(cfg.get("paste", True)))
