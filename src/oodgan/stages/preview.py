"""Fit the embedded generator's preview head: a 256 px image at a fraction of the cost of the full one

It is fitted on samples and on inverted photos of `data`, with the residuals of feature-space inversion.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from oodgan.errors import UserError
from oodgan.generators import preview as heads
from oodgan.generators.protocol import Residuals
from oodgan.inversion import inverter as inverters
from oodgan.inversion.feature import FeatureEncoder, predict
from oodgan.stages import _common as common
from oodgan.training.progress import track

READS = ("generator", "inverter", "data")
log = logging.getLogger("oodgan")


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Fit the head and write it. Raises UserError if the generator has no preview head."""
    generator: Any = common.open_generator(cfg)
    if not hasattr(generator, "previews"):
        raise UserError("a preview head is for generator=mobile_ffhq; StyleGAN2 decodes small images by itself")
    settings_hash = common.artifact_hash(cfg, ("inverter", "data"), generator=generator.id, fit=str(dict(cfg.fit)))
    if common.finished(cfg, settings_hash):
        return None
    size, settings = int(cfg.size), cfg.fit
    inverter = inverters.build({**cfg.inverter, "refine": {"steps": 0}}, generator)
    photos = instantiate(cfg.data, size=size)
    codes = track(heads.sampled_codes(generator, settings.samples, cfg.seed + 1), "render samples", settings.samples)
    data = list(heads.patches(generator, size, codes, cfg.seed))
    head = _fit(generator, size, data, settings.steps // 3, cfg.seed)
    generator.previews[str(size)] = head  # good enough to compute residuals
    codes = track(_inverted(generator, inverter, photos.part("train"), settings.photos), "photos", settings.photos)
    data += heads.patches(generator, size, codes, cfg.seed)
    held_out = [*heads.sampled_codes(generator, settings.held_out, cfg.seed + 2)]
    held_out += _inverted(generator, inverter, photos.part("val"), settings.held_out)
    judged = list(heads.patches(generator, size, held_out, cfg.seed))
    head = _fit(generator, size, data, settings.steps, cfg.seed)
    half = len(judged) // 2
    psnr = {"samples": heads.psnr_of(head, judged[:half]), "photos": heads.psnr_of(head, judged[half:])}
    log.info("PSNR on held-out samples %.1f dB, on held-out photos %.1f dB", psnr["samples"], psnr["photos"])

    def fill(folder: Any) -> None:
        heads.save_previews(generator, {str(size): head}, psnr, folder / "weights.safetensors")

    common.write_artifact(cfg, settings_hash, fill, generator=generator.id, metrics=psnr)
    return None


def _fit(generator: Any, size: int, data: list[dict[str, Tensor]], steps: int, seed: int) -> heads.Preview:
    torch.manual_seed(seed)
    head = heads.Preview(generator.feature_channels[size // 2], heads.codes_of(generator, size))
    for _ in track(heads.fit_preview(head, data, steps, seed), "fit the head", total=steps, unit="steps"):
        pass
    return head.eval().requires_grad_(False)


def _inverted(generator: Any, inverter: Any, part: Any, count: int) -> Iterator[tuple[Tensor, Residuals]]:
    """Yield codes of photos with residuals from one to three gradient steps."""
    torch.manual_seed(0)
    stepper = FeatureEncoder(generator.feature_channels[64])
    for i in torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:count].tolist():
        photo = part[i]["image"][None]
        w_plus = inverter.invert(photo).w_plus
        with torch.no_grad():
            yield w_plus, {64: predict(stepper, generator, w_plus, photo, 1 + i % 3).residual}
