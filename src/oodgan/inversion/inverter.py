"""photo -> w+: an encoder, optimisation, or one after the other, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.refine import Refinement


class Inverter(Protocol):
    """Photos (B, 3, R, R) in [-1, 1] -> codes (B, L, 512)."""

    name: str

    def invert(self, photos: Tensor) -> Tensor: ...


class EncoderInverter(nn.Module):
    """An encoder's code, refined by `refinement.steps` steps of optimisation (0: the encoder alone).

    `passes` above 1 feeds the photo again beside what came out (ReStyle, section 3.2) to encoders that take both.
    """

    def __init__(
        self, generator: Generator, encoder: nn.Module, refinement: Refinement | None = None, name: str = "encoder"
    ):
        super().__init__()
        self.generator, self.encoder, self.refinement, self.name = generator, encoder.eval(), refinement, name

    @torch.no_grad()
    def encode(self, photos: Tensor) -> Tensor:
        """The encoder's codes, before any refinement."""
        return self.generator.mean_w + self.encoder(photos)

    def invert(self, photos: Tensor) -> Tensor:
        codes = self.encode(photos)
        return codes if self.refinement is None else self.refinement(self.generator, codes, photos)


class OptimisationInverter(nn.Module):
    """Optimisation from the mean code: slow, needs no encoder, works for any generator of the protocol."""

    def __init__(self, generator: Generator, refinement: Refinement, name: str = "optimisation"):
        super().__init__()
        if not refinement.steps and not refinement.seconds:
            raise UserError("inverter=optimisation starts from the mean face: give inverter.refine.steps or .seconds")
        self.generator, self.refinement, self.name = generator, refinement, name

    def invert(self, photos: Tensor) -> Tensor:
        start = self.generator.mean_w.expand(len(photos), self.generator.num_ws, -1)
        return self.refinement(self.generator, start.clone(), photos)


def build(cfg: Mapping[str, Any], generator: Generator, load: bool = True) -> Inverter:
    """Build the inverter of a config group `inverter`: its encoder with its weights, and its refinement.

    Raises UserError for weights that are missing or were made for another generator.
    """
    refinement = Refinement(**dict(cfg.get("refine") or {}))
    name = str(cfg.get("name", "inverter"))
    if cfg.get("encoder") is None:
        return OptimisationInverter(generator, refinement, name)
    encoder = build_encoder(cfg, generator)
    if load:
        _load(encoder, cfg, generator)
    active = refinement if refinement.steps or refinement.seconds else None
    return EncoderInverter(generator, encoder, active, name)


def build_encoder(cfg: Mapping[str, Any], generator: Generator) -> nn.Module:
    """The encoder of a config group `inverter`, with fresh weights."""
    from hydra.utils import instantiate

    return instantiate(cfg["encoder"], num_ws=generator.num_ws)


def _load(encoder: nn.Module, cfg: Mapping[str, Any], generator: Generator) -> None:
    from oodgan.weights import trained

    if not cfg.get("weights"):
        raise UserError(
            f"inverter={cfg.get('name')} has no weights; train it with oodgan inversion or give inverter.weights=PATH"
        )
    tensors, _ = trained.load(cfg["weights"], "encoder", generator=generator.id)
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"the weights {cfg['weights']} do not fit this encoder: {' '.join(str(error).split())[:200]}"
        ) from error
