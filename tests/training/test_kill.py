"""A run killed at any moment leaves a valid checkpoint, and the resumed run ends with the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import oodgan  # noqa: F401

SCRIPT = """
import json, os, random, signal, sys, time

sys.path.insert(0, {small!r})
import oodgan
import torch

torch.set_num_threads(1)
from small import Gan, PointData
from oodgan.training import checkpoints
from oodgan.training.fit import fit

folder, steps = sys.argv[1], 60
cfg = {{"trainer": {{"accelerator": "cpu", "log_every_n_steps": 1}}, "stage": "kill"}}
settings = {{"max_steps": steps, "batch_size": 4, "val_every": 7, "checkpoint_every": 1, "monitor": "val/loss"}}


def train(place):
    return fit(Gan(), PointData(), cfg=cfg, settings=settings, folder=place, resume="auto")


begun = time.monotonic()
train(folder + "/whole")
took = time.monotonic() - begun  # kills come within the first third, on a fast machine and on a busy one
rng, seen, kills = random.Random(0), [], 0
while kills < 20:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        train(folder + "/killed")
        os._exit(0)
    time.sleep(took * rng.uniform(0.05, 0.35))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
    path = folder + "/killed/checkpoints/last.ckpt"
    if os.path.exists(path):
        saved = checkpoints.load(path)
        assert all(torch.isfinite(v).all() for v in saved["state_dict"].values())
        seen.append(saved["global_step"])
result = train(folder + "/killed")
print(json.dumps({{"seen": seen, "steps": result.steps, "kills": kills}}))
"""


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_an_uninterrupted_one(tmp_path):
    from oodgan.tracking.loggers import read_csv
    from oodgan.training import checkpoints

    script = SCRIPT.format(small=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 20 and report["steps"] == 60
    assert report["seen"] == sorted(report["seen"]) and len(set(report["seen"])) >= 2
    whole, killed = (checkpoints.load(tmp_path / n / "checkpoints/last.ckpt") for n in ("whole", "killed"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, killed["state_dict"][name]), name
    steps = [step for step, name, _ in read_csv(tmp_path / "killed/metrics.csv") if name == "train/loss"]
    assert steps == sorted(set(steps)) and len(steps) >= 40
    assert not list((tmp_path / "killed/checkpoints").glob("*.ckpt.*"))


@pytest.mark.slow
def test_ctrl_c_stops_after_a_complete_step_and_the_run_resumes(tmp_path, start):
    script = SCRIPT.format(small=str(Path(__file__).parent)).partition("train(folder")[0]
    script += "\nsettings['max_steps'] = 100000\ntrain(folder + '/run')\n"
    process = start([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, env=os.environ)
    last = tmp_path / "run/checkpoints/last.ckpt"
    for _ in range(6000):
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert "Stopped: stopped by SIGINT at step" in errors and f"resume={tmp_path / 'run'}" in errors
    from oodgan.training import checkpoints

    step = int(errors.rpartition("at step ")[2].partition(";")[0])
    assert checkpoints.load(last)["global_step"] == step
