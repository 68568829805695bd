"""Train Diff-CAM, which locates an edit from the images before and after it

Random samples are edited along random directions. The network classifies the direction from (inverted, edited), and its
class activation map then shows where the edit is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from oodgan.command.words import refuse_typed
from oodgan.data.dataset_module import DatasetModule
from oodgan.devices import on_accelerator
from oodgan.diffcam.callbacks import ConfusionMatrix, MaskQuality
from oodgan.diffcam.masks import load_network
from oodgan.diffcam.network import DiffCAM
from oodgan.diffcam.pairs import InvertedCodes, PairRenderer, Pairs, find_regions, render_pairs
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.files import locked
from oodgan.generators import Generator
from oodgan.inversion import transfer
from oodgan.inversion.inverter import previewing
from oodgan.inversion.layers import Layers
from oodgan.nn.frozen import weights_hash
from oodgan.paths import StageFolder, shared_folder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import plain
from oodgan.training.build import build_module
from oodgan.training.fit import fit

READS = (
    "generator", "directions", "diffcam", "inverter", "transfer", "data", "trainer", "callbacks", "logger", "identity",
)  # fmt: skip


def run(cfg: DictConfig) -> dict[str, Any] | None:
    if not cfg.diffcam.fit.inverted:
        refuse_typed("diffcam", ("inverter", "transfer"), "only diffcam.fit.inverted above 0 uses it")
    generator = common.open_generator(cfg)
    bank = common.open_bank(cfg, generator)
    groups = ("diffcam", *_INVERTING) if cfg.diffcam.fit.inverted else ("diffcam",)
    settings_hash = common.training_hash(cfg, groups, generator=generator.id, directions=bank.id)
    if common.finished(cfg, settings_hash):
        return None
    torch.manual_seed(cfg.seed)
    network = _network(cfg, generator, bank)
    renderer = _renderer(cfg, generator, bank)
    pairs = _pairs(cfg, renderer, network)
    settings = cfg.diffcam.fit
    description = {
        "part": "diffcam",
        "generator": generator.id,
        "directions": list(bank.names),
        "bank": bank.id,
        "network": cfg.diffcam.network,
    }
    # If only the head trains, regions are known before training, so checkpoints can contain them.
    regions = _regions(cfg, renderer, network) if network.only_head_trains else None
    data = DatasetModule(pairs, settings.held_out, settings.batch_size, common.loader_workers(cfg), cfg.seed)
    recipe = {**plain(cfg.diffcam.network), "num_classes": len(bank)}
    module = build_module(settings.module, {"network": recipe}, description, network=network)
    module.exported_tensors = {} if regions is None else {"regions": regions}
    folder = StageFolder.of(cfg).fit(settings_hash).path
    watching = [ConfusionMatrix(bank.names), *_mask_quality(settings, renderer)]
    result = fit(
        module, data, cfg=cfg, settings=settings, folder=folder, callbacks=watching, resume=cfg.resume or "auto",
        keep_run=True,
    )  # fmt: skip
    network = module.averaged
    tensors = {f"network.{k}": v for k, v in network.trained_state().items()}
    tensors["regions"] = _regions(cfg, renderer, network) if regions is None else regions
    going_on = ("diffcam",) if cfg.diffcam.fit.get("continue_from_weights") else ()
    common.write_weights(
        cfg,
        settings_hash,
        tensors,
        description,
        uses=common.used(cfg, "directions", *going_on),
        resolution=cfg.diffcam.size,
        counts={"pairs": len(pairs)},
        metrics=common.numbers(result.metrics),
    )
    return {"objective": result.objective}


def _mask_quality(settings: DictConfig, renderer: PairRenderer) -> list[MaskQuality]:
    wanted = plain(settings.get("mask_quality")) or {}
    return [MaskQuality(renderer, **wanted)] if wanted.get("samples") else []


def _regions(cfg: DictConfig, renderer: PairRenderer, network: DiffCAM) -> Tensor:
    with _rendering(cfg, renderer, network):
        return find_regions(renderer, network, cfg.diffcam.fit.region_codes, cfg.seed)


def _rendering(cfg: DictConfig, renderer: PairRenderer, network: DiffCAM) -> AbstractContextManager[str]:
    inverting = (renderer.photos.inverter, renderer.photos.transfer) if renderer.photos else ()
    return on_accelerator(cfg, renderer.generator, network, *inverting)


def _network(cfg: DictConfig, generator: Generator, bank: Bank) -> DiffCAM:
    if not cfg.diffcam.fit.get("continue_from_weights"):
        return instantiate(cfg.diffcam.network, num_classes=len(bank))
    network, _, names = load_network(cfg.diffcam, generator.id)
    if [name.lower() for name in names] != [name.lower() for name in bank.names]:
        raise UserError(
            f"Diff-CAM {cfg.diffcam.weights} names {', '.join(names)}; to go on training it, give directions of these "
            f"names in this order, not {', '.join(bank.names)}"
        )
    return network.train()


def _renderer(cfg: DictConfig, generator: Generator, bank: Bank) -> PairRenderer:
    settings = cfg.diffcam.fit
    return PairRenderer(
        generator,
        bank,
        settings.render_size,
        cfg.diffcam.size,
        settings.edits_per_code,
        settings.low,
        settings.high,
        settings.both_senses,
        settings.mirrored,
        _inverted(cfg, generator) if settings.inverted else None,
    )


def _inverted(cfg: DictConfig, generator: Generator) -> InvertedCodes:
    share = float(cfg.diffcam.fit.inverted)
    if not 0 < share <= 1:
        raise UserError(f"diffcam.fit.inverted={share}: a share from 0 to 1 expected")
    residual = bool(cfg.inverter.get("residual"))
    return InvertedCodes(
        previewing(cfg.inverter, generator),
        transfer.build(cfg.get("transfer"), generator, residual),
        Layers.of(instantiate(cfg.data, size=min(cfg.diffcam.fit.render_size, generator.resolution))),
        share,
    )


def _pairs(cfg: DictConfig, renderer: PairRenderer, network: DiffCAM) -> Pairs:
    settings, hashes = cfg.diffcam.fit, {"g": renderer.generator.id, "bank": renderer.bank.id}
    # The content of the shards depends on all of this, so they must not be reused if it changes.
    made_by: dict[str, Any] = {"size": cfg.diffcam.size, "fit": {k: settings[k] for k in _RENDERING}}
    if settings.inverted:
        made_by["inverted"] = settings.inverted
        hashes["inverting"] = common.artifact_hash(cfg, _INVERTING)
    images = shared_folder(cfg, "pair_images", common.hash_settings(made_by, hashes))
    if network.only_head_trains:  # shards contain features, otherwise images
        made_by |= {
            "network": cfg.diffcam.network,
            "features": weights_hash(network.shared) + weights_hash(network.classifier),
        }
    folder = shared_folder(cfg, "pairs", common.hash_settings(made_by, hashes))
    with locked(folder, patience=-1), _rendering(cfg, renderer, network):
        return Pairs(render_pairs(renderer, network, folder, settings.pairs, cfg.seed, images))


_INVERTING = ("inverter", "transfer", "data")
_RENDERING = ("render_size", "edits_per_code", "low", "high", "both_senses", "mirrored")
