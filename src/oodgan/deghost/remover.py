"""The deghoster as the editor uses it: the fine image inside the mask, the photo's own pixels outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.deghost.protocol import DeghosterNetwork
from oodgan.errors import UserError
from oodgan.generators import Generator, open_converted
from oodgan.weights import trained


class Remover(nn.Module):
    """Applies a trained deghoster and pastes its result into the photo.

    `paste=False` gives the published behaviour: the network's whole image, at whatever size it makes.
    """

    def __init__(self, network: DeghosterNetwork, paste: bool = True) -> None:
        super().__init__()
        self.network: Any = network.eval()
        self.paste = paste

    @torch.no_grad()
    def forward(
        self, *, coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, w_plus: Tensor
    ) -> Tensor:
        """Images (B, 3, R, R) in [-1, 1], mask (B, 1, R, R), the edited code (B, L, 512) -> result (B, 3, R, R)."""
        fine = self.network(coarse, photo, inverted, edited, mask, w_plus)
        if fine.shape[-1] != coarse.shape[-1]:
            fine = F.interpolate(fine, coarse.shape[2:], mode="bicubic", align_corners=False)
        fine = fine.clamp(-1, 1)
        return photo + self.network.share(mask) * (fine - photo) if self.paste else fine


def build_network(cfg: Mapping[str, Any], generator: Generator) -> DeghosterNetwork:
    """The network of a config group `deghoster`, with fresh weights."""
    return trained.network(cfg["network"], {}, "", generator=generator)


def load_network(cfg: Mapping[str, Any], generator: Generator) -> DeghosterNetwork:
    """The network of a config group `deghoster` with its weights, trained here or converted.

    Its prior is the generator where the weights were made for it, else the one that lies beside them (converted
    deghosters bring their own).

    Raises:
        UserError: the weights are missing, do not fit, or were made for another generator that is not there.
    """
    source = trained.configured(cfg, "deghoster", "deghost")
    tensors, metadata = trained.load(source, "deghoster")
    own = trained.locate(source).parent / "generator"
    if metadata.get("generator") not in (None, generator.id):
        if not own.is_dir():
            raise UserError(
                f"{source} was made for generator {metadata['generator']}, but {generator.id} is configured"
            )
        generator = open_converted(own)
    network = trained.network(cfg["network"], metadata, source, generator=generator)
    with trained.fitting(source, "deghoster"):
        network.load_trained(tensors)
    return network.eval()


def build(cfg: Mapping[str, Any], generator: Generator) -> Remover | None:
    """The remover of a config group `deghoster` with its weights; None for `deghoster=none`. Errors: `load_network`."""
    if cfg.get("network") is None:
        return None
    return Remover(load_network(cfg, generator), bool(cfg.get("paste", True)))
