"""The parts of an `Editor`, built from a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from oodgan import directions, generators, launch
from oodgan.command import words
from oodgan.deghost import remover
from oodgan.devices import device_of
from oodgan.diffcam import masks
from oodgan.editing import strength
from oodgan.errors import UserError
from oodgan.export import backend
from oodgan.inversion import cache, transfer
from oodgan.parsing import parser


def parts(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Editor`, each built from its group of the configuration of `oodgan edit`.

    Raises:
        UserError: weights are missing or were made for another generator or other directions; the `backend` is unknown
            or not installed; this machine does not have the `accelerator`.
    """
    device, chosen = device_of(str(cfg.get("accelerator", "cpu"))), str(cfg.get("backend", "torch"))
    backend.check(chosen, device)
    generator = generators.build(cfg["generator"])
    bank = directions.build(cfg["directions"], generator)
    inverter = cache.build(cfg, generator)
    openvino = chosen == "openvino"
    return {
        "generator": generator,
        "inverter": inverter,
        "bank": bank,
        "masker": masks.build(cfg["diffcam"], generator, bank),
        "remover": remover.build(cfg["deghoster"], generator) if cfg.get("deghoster") else None,
        "composition": cfg.get("compose"),
        "device": device,
        "transfer": transfer.build(cfg.get("transfer"), generator, bool(cfg["inverter"].get("residual"))),
        "search": strength.build(cfg.get("search")),
        "parser": parser.build(cfg.get("parser")),
        "synthesis": backend.synthesis(generator, inverter.residual, cfg["generator"]) if openvino else None,
    }


def configuration(generator: str, overrides: Iterable[str], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of `oodgan edit` with overrides as typed and `options` given as Python values.

    Raises:
        UserError: an unknown option or key.
    """
    chosen = [f"{key}={words.spelled(value)}" for key, value in options.items()]
    try:
        return launch.compose("edit", [f"generator={generator}", *overrides, *chosen])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(launch.explain(error, "edit")) from error
