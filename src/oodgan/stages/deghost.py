"""Train the deghoster, which removes artifacts of the composition

Reads the training pairs of `deghoster.ghosts_from`, by default those of the same run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from oodgan.data.dataset_module import DatasetModule
from oodgan.deghost.ghosts import Ghosts
from oodgan.deghost.remover import build_network, load_network
from oodgan.errors import UserError
from oodgan.generators import Generator
from oodgan.paths import RunFolder, StageFolder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import Manifest, plain, require
from oodgan.training.build import build_module
from oodgan.training.fit import fit

READS = ("generator", "deghoster", "data", "trainer", "callbacks", "logger", "identity")


def run(cfg: DictConfig) -> dict[str, Any] | None:
    if cfg.deghoster.get("network") is None:
        raise UserError(f"deghoster={cfg.deghoster.name} has nothing to train; choose deghoster=light")
    generator = common.open_generator(cfg)
    source = Path(cfg.deghoster.get("ghosts_from") or RunFolder.of(cfg).stage("ghosts").artifact)
    if not source.exists():
        raise UserError(
            f"no ghosts at {source}: write them first with oodgan ghosts run={cfg.run}, or deghoster.ghosts_from=PATH"
        )
    manifest = require(Manifest.load(source), stage="ghosts", generator=generator.id)
    settings_hash = common.training_hash(cfg, ("deghoster",), generator=generator.id, ghosts=manifest.settings_hash)
    if common.finished(cfg, settings_hash):
        return None
    settings = cfg.deghoster.fit
    ghosts = Ghosts(source)
    data = DatasetModule(
        ghosts, max(1, int(len(ghosts) * settings.held_out)), settings.batch_size, common.loader_workers(cfg), cfg.seed
    )
    torch.manual_seed(cfg.seed)
    network = _network(cfg, generator)
    discriminator = _discriminator(plain(cfg.deghoster.discriminator))
    recipes = {"network": {**plain(cfg.deghoster.network), "generator": plain(cfg.generator)}}
    recipes["discriminator"] = discriminator
    description = {"part": "deghoster", "generator": generator.id, "network": cfg.deghoster.network}
    module = build_module(settings.module, recipes, description, network=network, discriminator=discriminator)
    folder = StageFolder.of(cfg).fit(settings_hash).path
    start = common.earlier(cfg.deghoster)
    result = fit(
        module, data, cfg=cfg, settings=settings, folder=folder, resume=cfg.resume or "auto", init_from=start,
        keep_run=True,
    )  # fmt: skip
    going_on = common.used(cfg, "deghoster") if settings.get("continue_from_weights") else {}
    common.write_weights(
        cfg,
        settings_hash,
        module.averaged.trained_state(),
        description,
        uses={"ghosts": source, **going_on},
        resolution=generator.resolution,
        counts={"ghosts": len(ghosts)},
        metrics=common.numbers(result.metrics, 6),
    )
    return {"objective": result.objective}


def _network(cfg: DictConfig, generator: Generator) -> Any:
    if not cfg.deghoster.fit.get("continue_from_weights"):
        return build_network(cfg.deghoster, generator)
    network: Any = load_network(cfg.deghoster, generator)
    if network.generator.id != generator.id:
        raise UserError(
            f"deghoster {cfg.deghoster.weights} was made for generator {network.generator.id}; to go on training it, "
            f"give generator=stylegan2 generator.weights={cfg.deghoster.weights}"
        )
    return network.train()


def _discriminator(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the discriminator, if a loss uses one."""
    weights = recipe.pop("weights", None)
    return {"_target_": "oodgan.conversion.convert.load_discriminator", "source": weights} if weights else recipe
