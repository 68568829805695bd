"""Train how the residuals of an inversion follow an edit

Samples are covered with parts of the photos of `data` (by their parsing masks), inverted, and edited; their true edited
image is known, because their exact code is. Photos with parsing masks are inverted in addition.
"""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from oodgan.command.words import refuse_typed
from oodgan.data.dataset_module import DatasetModule
from oodgan.devices import on_accelerator
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.files import locked
from oodgan.generators import Generator
from oodgan.inversion.inverter import build, previewing
from oodgan.inversion.layers import Layers
from oodgan.inversion.transfer import PART, build_network, load_network
from oodgan.inversion.transfer_samples import (
    PER_SHARD,
    TransferSamples,
    mixed,
    render_transfer_photos,
    render_transfer_samples,
)
from oodgan.paths import StageFolder, shared_folder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import plain
from oodgan.training.build import build_module
from oodgan.training.fit import fit

READS = ("generator", "inverter", "transfer", "directions", "data", "trainer", "callbacks", "logger", "identity")


def run(cfg: DictConfig) -> dict[str, Any] | None:
    if cfg.transfer.get("network") is None:
        raise UserError(f"{cfg.transfer._target_} has nothing to train; choose transfer=learned")
    if not cfg.inverter.get("residual"):
        raise UserError(f"inverter={cfg.inverter.name} gives no residual to follow an edit; choose inverter=feature")
    refuse_typed("transfer", ("transfer.strength",), "it scales a trained network's answer; training uses all of it")
    generator = common.open_generator(cfg)
    bank = common.open_bank(cfg, generator)
    settings_hash = common.training_hash(
        cfg, ("transfer", "inverter", "data"), generator=generator.id, directions=bank.id
    )
    if common.finished(cfg, settings_hash):
        return None
    settings = cfg.transfer.fit
    samples = _samples(cfg, generator, bank)
    held_out = max(1, int(len(samples) * settings.held_out))
    data = DatasetModule(samples, held_out, settings.batch_size, common.loader_workers(cfg), cfg.seed)
    torch.manual_seed(cfg.seed)
    network = (load_network if settings.continue_from_weights else build_network)(cfg.transfer, generator)
    metadata = {"part": PART, "generator": generator.id, "network": cfg.transfer.network}
    recipes = {"network": {**plain(cfg.transfer.network), "channels": network.channels}}
    recipes["generator"] = plain(cfg.generator)
    module = build_module(settings.module, recipes, metadata, network=network.train(), generator=generator)
    folder = StageFolder.of(cfg).fit(settings_hash).path
    result = fit(module, data, cfg=cfg, settings=settings, folder=folder, resume=cfg.resume or "auto", keep_run=True)
    going_on = ("transfer",) if settings.continue_from_weights else ()
    common.write_weights(
        cfg,
        settings_hash,
        module.averaged.state_dict(),
        metadata,
        uses=common.used(cfg, "directions", "inverter", *going_on),
        resolution=network.resolution,
        counts={"samples": len(samples)},
        metrics=common.numbers(result.metrics, 6),
    )
    return {"objective": result.objective}


def _samples(cfg: DictConfig, generator: Generator, bank: Bank) -> TransferSamples:
    settings = cfg.transfer.samples
    size = min(int(settings.size), generator.resolution)
    drawn = {"size": str(size), "exact": str(bool(settings.exact))}
    made_by = common.artifact_hash(cfg, ("inverter", "data"), generator=generator.id, **drawn)
    folder = shared_folder(cfg, "transfer", made_by)
    layers = Layers.of(instantiate(cfg.data, size=size))
    available = len(layers.photos or ())
    if settings.photos and available < PER_SHARD:
        raise UserError(
            f"transfer.samples.photos={settings.photos}: the data has {available} training photos with parsing masks, "
            f"and at least {PER_SHARD} are needed; transfer.samples.photos=0 uses none"
        )
    with locked(folder, patience=-1):
        inverter = (build if settings.exact else previewing)(cfg.inverter, generator)
        photos = []
        with on_accelerator(cfg, generator, inverter) as device:
            shards = render_transfer_samples(
                generator, inverter, layers, folder, settings.count, cfg.seed, size, settings.exact
            )
            if settings.photos:
                photos = render_transfer_photos(
                    inverter, layers.photos, folder, settings.photos, cfg.seed, size, device
                )
    return TransferSamples(mixed(shards, photos, cfg.seed), bank, settings.low, settings.high)
