"""The unchanged trainer presets (mixed precision, channels_last) on the CPU, with a StyleGAN2 in every fit."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import oodgan  # noqa: F401
from oodgan import launch
from oodgan.tracking.artifacts import Manifest

TINY = ["experiment=tiny"]
PAPER = [
    *("generator=tiny", "deghoster=paper", "deghoster.ghosts.size=32", "deghoster.fit.held_out=0.25"),
    *("deghoster.fit.max_steps=2", "deghoster.fit.module.losses.perceptual.weight=0"),
    "deghoster.network={in_size: 16, width: 8, growth: 4, blocks: 1}",
    "deghoster.discriminator.resolution=32",
    "deghoster.discriminator.max_channels=8",
]
FITS = {
    "codes": ["inversion", "inverter.fit.images.max_steps=0", "inverter.fit.codes.max_steps=2"],
    "images": ["inversion", "inverter.fit.codes.max_steps=0", "inverter.fit.images.max_steps=2"],
    "latent": ["inversion", "inverter.fit.codes.max_steps=0", "inverter.fit.images.max_steps=2"],
    "diffcam": ["diffcam", "diffcam.fit.max_steps=2"],
    "deghost": ["deghost", "deghoster.fit.max_steps=2"],
    "deghost_paper": ["deghost"],
}
FITS["latent"] += ["inverter.fit.images.module.losses.latent.weight=0.1"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", [["trainer=gpu"], ["trainer=slurm", "devices=1"]], ids=["gpu", "slurm"])
@pytest.mark.parametrize("fit", list(FITS))
def test_each_trainer_preset_trains(tmp_path, tiny_chain, fit, preset):
    stage, *words = FITS[fit]
    start = PAPER if fit == "deghost_paper" else TINY
    made_before = [f"cache={tiny_chain}/cache"]
    if stage == "deghost":
        made_before += [f"deghoster.ghosts_from={tiny_chain}/tiny/ghosts/artifact"]
    words = [*start, f"folder={tmp_path}", *made_before, *words]
    assert launch.run(stage, [*words, *preset, "accelerator=cpu"]) == 0
    manifest = Manifest.load(tmp_path / "artifact")
    assert manifest.config["trainer"]["channels_last"] and manifest.config["trainer"]["precision"] == "bf16-mixed"
    losses = [value for name, value in manifest.metrics.items() if name.endswith("val/loss")]
    assert losses and all(value == value for value in losses)
