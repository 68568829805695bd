"""Train the encoders: photo -> latent code w+, and photo -> feature residual

The first phase regresses the known codes of rendered samples (cheap: the frozen features are computed only once). If
`inverter.fit.images.max_steps` is above 0, the second minimises image losses on the images of `data`. For an inverter
with a `residual`, the last phase, `features`, trains the network that predicts it.
"""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from oodgan.data.dataset_module import DatasetModule
from oodgan.devices import device_of, on_accelerator
from oodgan.errors import UserError
from oodgan.files import locked
from oodgan.generators import Generator
from oodgan.inversion.cache import CachedInverter
from oodgan.inversion.feature import FeatureEncoder
from oodgan.inversion.inverter import (
    FEATURE_ENCODER,
    EncoderInverter,
    build_encoder,
    build_feature_encoder,
    load_encoder,
    load_feature_encoder,
)
from oodgan.inversion.protocol import Encoder
from oodgan.inversion.samples import DescribedSamples, render_samples
from oodgan.paths import StageFolder, shared_folder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import plain
from oodgan.training.build import build_module
from oodgan.training.fit import FitResult, fit

READS = ("generator", "inverter", "data", "trainer", "callbacks", "logger", "identity")
_CODES = 2 * 2**30  # bytes of codes kept while the feature encoder trains


def run(cfg: DictConfig) -> dict[str, Any] | None:
    if cfg.inverter.get("encoder") is None:
        raise UserError(f"inverter={cfg.inverter.name} has no encoder to train; choose inverter=light")
    generator = common.open_generator(cfg)
    settings_hash = common.training_hash(cfg, ("inverter", "data"), generator=generator.id)
    if common.finished(cfg, settings_hash):
        return None
    torch.manual_seed(cfg.seed)
    open_encoder = load_encoder if cfg.inverter.fit.get("continue_from_weights") else build_encoder
    encoder = open_encoder(cfg.inverter, generator).train()
    if cfg.inverter.fit.codes.max_steps and not encoder.describes:
        raise UserError(f"inverter={cfg.inverter.name} is trained on images only: set inverter.fit.codes.max_steps=0")
    results: dict[str, FitResult] = {}
    images = _images(cfg)
    if cfg.inverter.fit.codes.max_steps:
        results["codes"] = _phase(cfg, generator, encoder, _codes(cfg, generator, encoder), "codes", settings_hash)
    if cfg.inverter.fit.images.max_steps:
        results["images"] = _phase(cfg, generator, encoder, images, "images", settings_hash)
    feature = None
    if cfg.inverter.get("residual") and cfg.inverter.fit.features.max_steps:
        feature, results["features"] = _features(cfg, generator, encoder, settings_hash)
    if not results:
        raise UserError("nothing to train: max_steps is 0 in every phase of inverter.fit")
    metrics = {f"{phase}/{name}": value for phase, each in results.items() for name, value in each.metrics.items()}
    common.write_weights(
        cfg,
        settings_hash,
        encoder.state_dict(),
        _description(cfg, generator, encoder),
        beside=_feature_weights(cfg, generator, feature),
        uses=common.used(cfg, "inverter") if cfg.inverter.fit.get("continue_from_weights") else {},
        resolution=generator.resolution,
        metrics=common.numbers(metrics),
        counts={"samples": cfg.inverter.fit.samples},
    )
    return {"objective": list(results.values())[-1].objective}


def _images(cfg: DictConfig) -> Any:
    """Open the photos of the later phases before the first one, so that a wrong folder raises its error at once."""
    features = cfg.inverter.get("residual") and cfg.inverter.fit.features.max_steps
    return instantiate(cfg.data, size=cfg.inverter.fit.size) if cfg.inverter.fit.images.max_steps or features else None


def _description(cfg: DictConfig, generator: Generator, encoder: Encoder) -> dict[str, Any]:
    """Return the metadata of the encoder's weights."""
    return {"part": "encoder", "generator": generator.id, "encoder": cfg.inverter.encoder, "identity": encoder.identity}


def _codes(cfg: DictConfig, generator: Generator, encoder: Encoder) -> DatasetModule:
    """Return samples with exact codes and precomputed features, rendered once."""
    settings = cfg.inverter.fit
    if settings.samples < 1:
        raise UserError(f"inverter.fit.samples={settings.samples}: codes are learned from at least one rendered sample")
    # Shards hold what this encoder's `describe` computes, so those of another one must not be reused.
    described = common.hash_settings({"encoder": cfg.inverter.encoder, "size": settings.size}, {"g": generator.id})
    folder = shared_folder(cfg, "samples", described)
    with locked(folder, patience=-1), on_accelerator(cfg, generator, encoder):
        samples = render_samples(generator, encoder, folder, settings.samples, cfg.seed, settings.size)
    dataset = DescribedSamples(samples)
    held_out = max(1, int(len(dataset) * settings.held_out))
    return DatasetModule(dataset, held_out, settings.codes.batch_size, common.loader_workers(cfg), cfg.seed)


def _phase(cfg: DictConfig, generator: Generator, encoder: Any, data: Any, phase: str, settings_hash: str) -> FitResult:
    recipes = {"network": {**plain(cfg.inverter.encoder), "num_ws": generator.num_ws}}
    recipes["generator"] = plain(cfg.generator)
    description = _description(cfg, generator, encoder)
    module = build_module(cfg.inverter.fit[phase].module, recipes, description, network=encoder, generator=generator)
    result = _fit(cfg, module, data, phase, settings_hash)
    encoder.load_state_dict(module.averaged.state_dict())
    return result


def _features(
    cfg: DictConfig, generator: Generator, encoder: Any, settings_hash: str
) -> tuple[FeatureEncoder, FitResult]:
    settings, residual = cfg.inverter.fit.features, cfg.inverter.residual
    go_on = cfg.inverter.fit.get("continue_from_weights") and residual.get("weights")
    feature = (load_feature_encoder if go_on else build_feature_encoder)(residual, generator)
    encoder.eval()
    base = EncoderInverter(generator, encoder, passes=int(cfg.inverter.get("passes") or 1))
    codes: Any = base
    if device_of(str(cfg.get("accelerator", "cpu"))) == "cpu":  # a GPU computes codes faster than it reads them
        codes = CachedInverter(base, settings_hash, StageFolder.of(cfg).codes, _CODES)
    recipes = {"network": {**plain(residual.encoder), "channels": feature.channels}, "generator": plain(cfg.generator)}
    module = build_module(settings.module, recipes, network=feature, generator=generator, inverter=codes)
    result = _fit(cfg, module, instantiate(cfg.data, size=feature.size), "features", settings_hash)
    feature.load_state_dict(module.averaged.state_dict())
    return feature, result


def _fit(cfg: DictConfig, module: Any, data: Any, phase: str, settings_hash: str) -> FitResult:
    folder = StageFolder.of(cfg).fit(settings_hash, phase).path
    settings = cfg.inverter.fit[phase]
    return fit(module, data, cfg=cfg, settings=settings, folder=folder, resume=cfg.resume or "auto", keep_run=True)


def _feature_weights(cfg: DictConfig, generator: Generator, feature: FeatureEncoder | None) -> dict[str, Any]:
    if feature is None:
        return {}
    metadata = {"part": FEATURE_ENCODER, "generator": generator.id, "encoder": cfg.inverter.residual.encoder}
    return {FEATURE_ENCODER: (feature.state_dict(), metadata)}
