"""photo -> inversion: an encoder, optimisation and a residual in feature space, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.directions.bank import latent_space, space_of
from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.feature import FeatureEncoder, ResidualRefinement, predict
from oodgan.inversion.protocol import Encoder, Inverter
from oodgan.inversion.refine import Refinement
from oodgan.inversion.value import Inversion
from oodgan.nn.facenet import NAME as FACENET
from oodgan.weights import trained

FEATURE_ENCODER = "feature_encoder"
"""The part that a feature encoder's weights name, and their folder in an artifact of `oodgan inversion`."""


class EncoderInverter(nn.Module, Inverter):
    """An encoder's code, refined by `refinement.steps` steps of optimisation (0: the encoder alone).

    With `passes` above 1, the encoder also gets its own inversion as input and corrects it.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: nn.Module,
        refinement: Refinement | None = None,
        name: str = "encoder",
        passes: int = 1,
    ):
        super().__init__()
        self.generator, self.refinement, self.name, self.passes = generator, refinement, name, passes
        self.encoder: Any = encoder.eval()

    @property
    def coder(self) -> EncoderInverter:
        return self

    @torch.no_grad()
    def encode(self, photos: Tensor) -> Tensor:
        """The encoder's codes, before any refinement."""
        return self.generator.mean_w + self.encoder.offsets(self.generator, photos, self.passes)

    def invert(self, photos: Tensor) -> Inversion:
        codes = self.encode(photos)
        return Inversion(codes if self.refinement is None else self.refinement(self.generator, codes, photos))


class OptimisationInverter(nn.Module, Inverter):
    """Optimisation from the mean code: slow, but needs no encoder and works for any generator."""

    def __init__(self, generator: Generator, refinement: Refinement, name: str = "optimisation"):
        super().__init__()
        if not refinement.steps and not refinement.seconds:
            raise UserError("inverter=optimisation starts from the mean face: give inverter.refine.steps or .seconds")
        self.generator, self.refinement, self.name = generator, refinement, name

    def invert(self, photos: Tensor) -> Inversion:
        start = self.generator.mean_w.expand(len(photos), self.generator.num_ws, -1)
        return Inversion(self.refinement(self.generator, start.clone(), photos))


class FeatureInverter(nn.Module, Inverter):
    """The code of another inverter, plus a residual on the generator's activations for what the code cannot represent.

    Args:
        base: inverter of the codes.
        encoder: predicts the residual (`oodgan.inversion.feature`).
        passes: forward passes of the encoder on previews.
        exact: further passes on full images; each costs a forward and a backward pass of the whole generator.
        refinement: optimisation of the residual after these passes; None: none.
    """

    def __init__(
        self,
        generator: Generator,
        base: Inverter,
        encoder: FeatureEncoder,
        passes: int = 3,
        exact: int = 0,
        name: str = "feature",
        refinement: ResidualRefinement | None = None,
    ) -> None:
        super().__init__()
        if passes < 1 or exact < 0:
            raise UserError(f"inverter.residual: passes={passes}, exact={exact}: passes >= 1 and exact >= 0 expected")
        self.generator, self.base, self.encoder = generator, base, encoder.eval()
        self.passes, self.exact, self.name, self.residual = passes, exact, name, encoder.resolution
        self.refinement = refinement or ResidualRefinement()

    @property
    def coder(self) -> EncoderInverter | None:
        return self.base.coder

    def invert(self, photos: Tensor) -> Inversion:
        w_plus = self.base.invert(photos).w_plus
        with torch.no_grad():
            residual, base = predict(self.encoder, self.generator, w_plus, photos, self.passes, self.exact)
        residual = self.refinement(self.generator, w_plus, residual, base, photos)
        return Inversion(w_plus, {self.encoder.resolution: residual})


def build(cfg: Mapping[str, Any], generator: Generator) -> Inverter:
    """Build the inverter of a config group `inverter`: its encoder with its weights, and its refinement.

    Raises:
        UserError: weights that are missing, or were made for another generator. Public encoders (`oodgan weights
            convert`) fit every generator of their latent space; codes beyond its layers are dropped.
    """
    base = _build_base(cfg, generator)
    residual = cfg.get("residual")
    if not residual:
        return base
    encoder = load_feature_encoder(residual, generator)
    passes, exact = int(residual.get("passes") or 1), int(residual.get("exact") or 0)
    refinement = ResidualRefinement(**dict(residual.get("refine") or {}))
    return FeatureInverter(generator, base, encoder, passes, exact, base.name, refinement)


def previewing(cfg: Mapping[str, Any], generator: Generator) -> Inverter:
    """As `build`, but compares previews only, for samples that are rendered as previews."""
    residual = cfg.get("residual")
    if residual:
        cfg = {**cfg, "residual": {**residual, "exact": 0, "refine": None}}
    return build(cfg, generator)


def _build_base(cfg: Mapping[str, Any], generator: Generator) -> Inverter:
    refinement = Refinement(**dict(cfg.get("refine") or {}))
    name = str(cfg.get("name", "inverter"))
    if cfg.get("encoder") is None:
        return OptimisationInverter(generator, refinement, name)
    encoder = load_encoder(cfg, generator)
    active = refinement if refinement.steps or refinement.seconds else None
    return EncoderInverter(generator, encoder, active, name, int(cfg.get("passes") or 1))


def build_feature_encoder(
    cfg: Mapping[str, Any], generator: Generator, metadata: Mapping[str, Any] | None = None
) -> FeatureEncoder:
    """Build the feature encoder of `inverter.residual` with new weights. Raises UserError for an invalid resolution."""
    resolution = int(cfg["encoder"].get("resolution") or 64)
    channels = generator.feature_channels.get(resolution)
    if channels is None:
        have = ", ".join(map(str, generator.feature_channels))
        raise UserError(f"inverter.residual.encoder.resolution={resolution}: this generator has activations at {have}")
    return trained.network(cfg["encoder"], metadata or {}, cfg.get("weights") or "", channels=channels)


def load_feature_encoder(cfg: Mapping[str, Any], generator: Generator) -> FeatureEncoder:
    """The feature encoder of `inverter.residual` with its weights.

    Raises:
        UserError: weights that are missing, do not fit, or were made for another generator.
    """
    source = trained.configured(cfg, "inverter.residual", "inversion")
    tensors, metadata = trained.load(source, FEATURE_ENCODER, generator=generator.id)
    encoder = build_feature_encoder(cfg, generator, metadata)
    with trained.fitting(source, "feature encoder"):
        encoder.load_state_dict(tensors)
    return encoder


def build_encoder(cfg: Mapping[str, Any], generator: Generator, metadata: Mapping[str, Any] | None = None) -> Any:
    """Build the encoder of a config group `inverter` with new weights. Raises UserError if it is no `Encoder`."""
    encoder = trained.network(cfg["encoder"], metadata or {}, cfg.get("weights") or "", num_ws=generator.num_ws)
    if not isinstance(encoder, Encoder):
        wanted = "a class that derives from oodgan.inversion.protocol.Encoder is expected"
        raise UserError(f"inverter.encoder._target_={cfg['encoder']['_target_']}: {wanted}")
    encoder.bind(generator)
    return encoder


def load_encoder(cfg: Mapping[str, Any], generator: Generator) -> Any:
    """Load the encoder of a config group `inverter` with trained or converted weights. Errors as in `build`."""
    source = trained.configured(cfg, "inverter", "inversion")
    tensors, metadata = trained.load(source, ("encoder", "psp"))
    made_for = metadata.get("generator")
    spaces = (space_of(str(made_for)), latent_space(generator))
    if made_for is not None and made_for != generator.id and not (metadata["part"] == "psp" and spaces[0] == spaces[1]):
        raise UserError(f"the encoder {source} was made for generator {made_for}, the generator is {generator.id}")
    encoder = build_encoder(cfg, generator, metadata)
    made_with = metadata.get("identity", FACENET)  # the only recogniser before weights named it
    if encoder.identity not in (None, made_with):
        raise UserError(
            f"the encoder {source} was trained with the recogniser {made_with}, inverter.encoder.recogniser is "
            f"{encoder.identity}"
        )
    with trained.fitting(source, "encoder"):
        encoder.load_state_dict(tensors)
    return encoder
