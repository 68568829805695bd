"""Train the face parser: photo -> skin, hair, hat, glasses and the other parts of a face

Learns from the photos of `data` that have parsing masks, for example
data=folder data.source.root=IMAGES data.source.parsing=MASKS, or data=celebamask.
"""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from oodgan.errors import UserError
from oodgan.parsing.classes import NAMES
from oodgan.parsing.parser import load_network
from oodgan.paths import StageFolder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import plain
from oodgan.training.build import build_module
from oodgan.training.fit import fit

READS = ("parser", "data", "trainer", "callbacks", "logger", "identity")


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Train the network and write it. Raises UserError for parser=none and for photos without masks."""
    if cfg.parser.get("network") is None:
        raise UserError(f"parser={cfg.parser.name} has nothing to train; choose parser=light")
    settings_hash = common.training_hash(cfg, ("parser", "data"))
    if common.finished(cfg, settings_hash):
        return None
    settings = cfg.parser.fit
    data = instantiate(cfg.data, size=cfg.parser.size)
    _check_masks(data)
    torch.manual_seed(cfg.seed)
    recipe = {**plain(cfg.parser.network), "classes": len(NAMES), "pretrained": False}
    description = {"part": "parser", "classes": list(NAMES), "network": recipe}
    module = build_module(settings.module, {"network": recipe}, description, network=_network(cfg))
    folder = StageFolder.of(cfg).fit(settings_hash).path
    result = fit(module, data, cfg=cfg, settings=settings, folder=folder, resume=cfg.resume or "auto", keep_run=True)
    common.write_weights(
        cfg,
        settings_hash,
        module.averaged.state_dict(),
        description,
        uses=common.used(cfg, "parser") if settings.get("continue_from_weights") else {},
        resolution=cfg.parser.size,
        counts={"photos": len(data.part("train"))},
        metrics=common.numbers(result.metrics),
    )
    return {"objective": result.objective}


def _network(cfg: DictConfig) -> nn.Module:
    if cfg.parser.fit.get("continue_from_weights"):
        return load_network(cfg.parser).train()
    return instantiate(cfg.parser.network, classes=len(NAMES))


def _check_masks(data: Any) -> None:
    part = data.part("train")
    if len(part) and "parsing" not in part[0]:
        raise UserError(
            "the parser is trained on photos with parsing masks, and these have none: set data.source.parsing=FOLDER, "
            "or data=celebamask"
        )
