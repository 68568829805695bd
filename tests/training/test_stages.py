"""Each fit stage of the tiny chain: interrupted and resumed, and with two processes."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import oodgan  # noqa: F401
from oodgan import launch

CRASH = "+callbacks.crash={_target_: small.StopAt, step: 5}"
PARTS = {"inversion": "inverter.fit.codes", "diffcam": "diffcam.fit", "deghost": "deghoster.fit"}
PARTS["images"] = "inverter.fit.images"  # the second fit of the inversion stage
ONLY = {
    "inversion": ["inverter.fit.images.max_steps=0"],
    "images": ["inverter.fit.codes.max_steps=0", "inverter.fit.images.max_steps=8"],
}
# Dropout and occluded faces are drawn per process: without them two processes take the same steps as one.
DRAWN = {"inversion": ["inverter.encoder.dropout=0"], "images": ["inverter.fit.images.module.occlusion=0"]}
DRAWN["images"] += DRAWN["inversion"]


def run(stage, root, *words):
    bank = ["directions=bank", f"directions.path={root}/tiny/directions/artifact", "~directions.count"]
    result = bank if stage == "diffcam" else []
    return launch.run(stage, ["experiment=tiny", f"root={root}", *result, *words])


def weights(folder):
    from oodgan.training import checkpoints

    (path,) = folder.glob("training/*/checkpoints/last.ckpt")
    return checkpoints.load(path)


def fit_stage(stage, chain, folder, *words):
    words = (f"folder={folder}", f"{PARTS[stage]}.checkpoint_every=2", *ONLY.get(stage, []), *words)
    run("inversion" if stage == "images" else stage, chain, *words)


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(PARTS))
def test_an_interrupted_stage_ends_with_the_same_weights(tmp_path, tiny_chain, stage, monkeypatch):
    from oodgan.training import added

    # A user's callback changes the training hash; this one only simulates a crash.
    monkeypatch.setattr(added, "OBSERVERS", (*added.OBSERVERS, "small.StopAt"))
    fit_stage(stage, tiny_chain, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        fit_stage(stage, tiny_chain, tmp_path / "parts", CRASH)
    fit_stage(stage, tiny_chain, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole["global_step"] == parts["global_step"] >= 8
    assert str(whole["optimizer_states"]) == str(parts["optimizer_states"])
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(PARTS))
def test_two_processes_take_the_same_steps_as_one(tmp_path, tiny_chain, stage):
    """In fp64, because Adam divides by the gradient's size: a gradient of rounding errors moves a weight by the whole
    learning rate. In fp32, gradients that differed by 8e-8 gave weights 2e-3 apart after one step. Rounding errors of
    fp64 are 1e9 times smaller, and cannot hide an error in splitting the batches."""
    steps = (f"{PARTS[stage]}.max_steps=3", "trainer.precision=64-true", *DRAWN.get(stage, []))
    fit_stage(stage, tiny_chain, tmp_path / "one", *steps)
    fit_stage(stage, tiny_chain, tmp_path / "two", *steps, "trainer=ddp", "devices=2", "accelerator=cpu")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one["global_step"] == two["global_step"] == 3
    for name, value in one["state_dict"].items():
        assert value.dtype == torch.float64 or not value.is_floating_point()
        assert (value - two["state_dict"][name]).abs().max() < 1e-9, name
