"""Find or import edit directions, calibrate them, and write a bank with its card

`directions=probe` learns them from labelled faces, `sefa` and `ganspace` find unnamed ones, `import` reads published
files.
"""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from oodgan.directions import calibrate as measure
from oodgan.directions.bank import FILENAME, Bank, latent_space
from oodgan.directions.card import write_card, write_pictures
from oodgan.directions.discovery import POLISHER, Discovered, unit
from oodgan.directions.features import Extractor, list_images
from oodgan.directions.formats import ImportDiscovery
from oodgan.directions.probes import SHIPPED_PROBES, Probes
from oodgan.errors import UserError
from oodgan.files import write_json
from oodgan.generators import Generator
from oodgan.generators.protocol import sample_codes
from oodgan.stages import _common as common

READS = ("generator", "inverter", "directions", "logger", "identity")
log = logging.getLogger("oodgan")
METHODS = "probe, probe_ffhq, sefa, ganspace or import"


@dataclass
class Findings:
    """The results of the stage: the bank, its check, further tables, and the probes of evaluation and discovery."""

    bank: Bank
    check: measure.Check | None
    extra: dict[str, Any]
    judge: Probes | None
    seek: Probes | None = None


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Write `<folder>/artifact` with `directions.safetensors`, `card.md`, its images, and both sets of probes."""
    if not str(cfg.directions.get("_target_", "")).endswith("Discovery"):
        raise UserError(f"this stage makes directions: choose directions={METHODS}")
    generator = common.open_generator(cfg)
    method = instantiate(cfg.directions, _convert_="all")
    settings_hash = common.artifact_hash(
        cfg, ("directions", "calibrate", "check"), generator=generator.id, photos=str(cfg.photos)
    )
    if common.finished(cfg, settings_hash):
        return None
    torch.manual_seed(cfg.seed)
    findings = _measure(cfg, generator, method.discover(generator))
    bank, result = findings.bank, findings.check

    def fill(folder: Path) -> None:
        bank.save(folder / FILENAME)
        save_probes(findings, folder)
        codes = sample_codes(generator, max(int(cfg.pictures), 1), cfg.check.seed + 1, 0.7)
        pictures = write_pictures(generator, bank, codes, folder / "pictures", result)
        command = shlex.join(["oodgan", "directions", *_overrides()])
        write_card(bank, folder / "card.md", command, [f"pictures/{p}" for p in pictures], result, findings.extra)
        measured = {"check": result.as_dict() if result else None, **findings.extra}
        write_json(folder / "measured.json", measured)

    common.write_artifact(
        cfg,
        settings_hash,
        fill,
        generator=generator.id,
        directions=list(bank.names),
        resolution=generator.resolution,
        counts={"directions": len(bank)},
        metrics={name: round(result.own(name), 3) for name in bank.names} if result else {},
        extra={"bank": bank.id},
    )
    return None


def save_probes(findings: Findings, folder: Path) -> None:
    """Write `probes.safetensors`, used for evaluation, and `probes_seek.safetensors`, used for discovery."""
    for name, probes in (("probes", findings.judge), ("probes_seek", findings.seek)):
        if probes is not None:
            probes.save(folder / f"{name}.safetensors")


def _measure(cfg: DictConfig, generator: Generator, discovered: Discovered) -> Findings:
    """Calibrate, measure curves and check, as far as there are probes for the names."""
    probes = discovered.probes or _given_probes(cfg)
    judged = [n for n in discovered.names if probes is not None and n in probes.names]
    notes: dict[str, dict[str, Any]] = {n: dict(discovered.quality.get(n, {})) for n in discovered.names}
    vectors, extra = discovered.vectors, {}
    space = latent_space(generator)
    if probes is None or len(judged) < len(discovered.names):
        bank = Bank(tuple(discovered.names), vectors, generator.id, space, notes, discovered.provenance)
        return Findings(bank, None, {}, None, discovered.probes)
    extractor = Extractor(probes.backbone, probes.size).to(generator.mean_w.device)
    bench = measure.Bench(generator, extractor, probes, probes.size, instantiate(cfg.identity))
    settings = cfg.calibrate
    codes = sample_codes(generator, settings.samples, settings.seed, settings.truncation)
    if not discovered.calibrated:
        vectors, steps = measure.calibrate(
            bench, discovered.names, vectors, codes, settings.target, settings.identity, discovered.settings
        )
        vectors, again = _polished(discovered, bench, vectors, codes, cfg.calibrate)
        notes = {n: {**notes[n], **steps[n], **again.get(n, {})} for n in discovered.names}
    bank = Bank(tuple(discovered.names), vectors, generator.id, space, notes, discovered.provenance)
    bank = _with_curves(cfg, bench, bank, codes, generator)
    judge = discovered.check or probes
    result = None
    if cfg.check.samples:
        held_out = sample_codes(generator, cfg.check.samples, cfg.check.seed, settings.truncation)
        result = measure.check(bench, bank, held_out, judge)
        pairs = [p for p in cfg.check.pairs or [] if all(name in bank and name in judge.names for name in p)]
        some = held_out[: max(16, len(held_out) // 4)]
        extra["compose"] = measure.compose(bench, bank, some, judge, pairs)
        if cfg.check.published:
            extra["published"] = measure.against_published(bench, bank, _published(cfg, generator), some, judge)
        bank = _checked(bank, result)
    return Findings(bank, result, extra, discovered.check, discovered.probes)


def _polished(
    discovered: Discovered, bench: measure.Bench, vectors: Tensor, codes: Tensor, settings: DictConfig
) -> tuple[Tensor, dict[str, dict[str, Any]]]:
    """Polish and recalibrate the directions (K, L, 512) that have a place; returns all, and the steps of these."""
    wanted = (
        {n: dict(o["polish"]) for n, o in discovered.settings.items() if o.get("polish")} if discovered.polisher else {}
    )
    if not wanted:
        return vectors, {}
    assert discovered.polisher is not None
    at, moved = [discovered.names.index(name) for name in wanted], vectors.clone()
    for i, (name, options) in zip(at, wanted.items(), strict=True):
        polisher = discovered.polisher.but(**{key: options[key] for key in POLISHER & options.keys()})
        moved[i] = polisher(bench, name, vectors[i], options.get("place", ()), options.get("spare"))
    own = {name: {**discovered.settings[name], **more} for name, more in wanted.items()}
    polished, steps = measure.calibrate(
        bench, list(wanted), unit(moved[at]), codes, settings.target, settings.identity, own
    )
    return vectors.index_copy(0, torch.tensor(at), polished), steps


def _given_probes(cfg: DictConfig) -> Probes | None:
    path = cfg.calibrate.probes
    return None if path is None else Probes.load(SHIPPED_PROBES if path == "ffhq" else path)


def _with_curves(cfg: DictConfig, bench: measure.Bench, bank: Bank, codes: Tensor, generator: Generator) -> Bank:
    """Return the bank with curves on samples and, if given, on inverted photos; ranges come from the former."""
    curves = {"samples": measure.curves(bench, bank, codes)}
    if cfg.photos is not None:
        curves["photos"] = measure.curves(bench, bank, _inverted(cfg, generator))
    notes = {name: dict(bank.calibration.get(name, {})) for name in bank.names}
    for name in bank.names:
        notes[name] |= {kind: curve[name] for kind, curve in curves.items()}
        notes[name]["range"] = measure.useful_range(curves["samples"][name])
    return Bank(bank.names, bank.vectors, bank.generator, bank.space, notes, bank.provenance)


def _checked(bank: Bank, result: measure.Check) -> Bank:
    notes = {name: dict(bank.calibration.get(name, {})) for name in bank.names}
    for i, name in enumerate(bank.names):
        moves = {p: round(float(v), 2) for p, v in zip(result.probes, result.moves[i], strict=True)}
        notes[name] |= {"moves": moves, "identity": round(float(result.identity[i]), 3)}
    return Bank(bank.names, bank.vectors, bank.generator, bank.space, notes, bank.provenance)


def _inverted(cfg: DictConfig, generator: Generator) -> Tensor:
    """Codes of the first `photo_limit` photos, by the configured inverter."""
    from oodgan.data.images import read_image, resize
    from oodgan.inversion.cache import build

    inverter = build(cfg, generator)
    size = min(generator.resolution, 512)
    files = list(list_images(cfg.photos).values())[: int(cfg.photo_limit)]
    codes = []
    for file in files:
        log.info("directions: inverting %s", file.name)
        photo = resize(read_image(file), size)[None].to(generator.mean_w.device)
        codes.append(inverter.invert(photo).w_plus.detach())
    return torch.cat(codes)


def _published(cfg: DictConfig, generator: Generator) -> Bank:
    files = OmegaConf.to_container(cfg.check.published) if OmegaConf.is_config(cfg.check.published) else None
    discovered = ImportDiscovery(files or cfg.check.published).discover(generator)  # type: ignore[arg-type]
    return Bank(tuple(discovered.names), discovered.vectors, generator.id, latent_space(generator))


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        return [o for o in HydraConfig.get().overrides.task if not o.startswith("stage=")]
    return sys.argv[1:]
