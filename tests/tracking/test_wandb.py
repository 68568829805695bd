"""An offline wandb run of a fit, read back from its files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import oodgan  # noqa: F401
from oodgan.files import writing
from oodgan.tracking import wandb as tracker
from oodgan.tracking.artifacts import Manifest


def make(folder, stage, **more):
    with writing(folder) as temporary:
        (temporary / "weights").write_text(stage)
        Manifest(stage=stage, **more).save(temporary)
    return folder


def test_nothing_is_logged_without_a_wandb_run(tmp_path):
    assert not tracker.log_images({"x": torch.zeros(3, 8, 8)})
    assert tracker.log_artifact(make(tmp_path / "a", "diffcam")) is None


@pytest.mark.slow
def test_an_offline_run_stores_curves_pictures_and_lineage(tmp_path, monkeypatch):
    import pytorch_lightning as pl
    from PIL import Image
    from small import PointData, Regression

    from oodgan.training.fit import fit

    monkeypatch.setenv("WANDB_MODE", "offline")

    encoder = make(tmp_path / "encoder", "inversion", generator="g-1")
    diffcam = make(tmp_path / "diffcam", "diffcam", generator="g-1", directions=["smile"])

    class Shows(pl.Callback):
        def on_train_end(self, trainer, module):
            red = torch.stack([torch.ones(8, 8), -torch.ones(8, 8), -torch.ones(8, 8)])
            assert tracker.log_images({"sheet": red[None]}, trainer=trainer)
            assert tracker.log_mask("mask", red, torch.ones(1, 8, 8), trainer=trainer)
            assert tracker.log_artifact(diffcam, [encoder], trainer) == tracker.artifact_name(diffcam)

    cfg = {
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
        "stage": "diffcam",
        "logger": {"wandb": {"_target_": "pytorch_lightning.loggers.WandbLogger"}},
    }
    cfg["logger"]["wandb"]["group"] = "group-of-two"
    settings = {"max_steps": 3, "batch_size": 8}
    fit(Regression(), PointData(), cfg=cfg, settings=settings, folder=tmp_path / "run", callbacks=[Shows()])
    identity = json.loads((tmp_path / "run/run.json").read_text())
    (place,) = (tmp_path / "run/wandb").glob(f"offline-run-*-{identity['id']}")
    picture = next(p for p in place.rglob("*.png") if "sheet" in p.name)
    assert Image.open(picture).convert("RGB").getpixel((2, 2)) == (255, 0, 0)
    binary = Path(sys.executable).parent / "wandb"
    shown = subprocess.run(
        [str(binary), "leet", "inspect", "--json", str(place)], capture_output=True, text=True, timeout=120
    )
    for word in ("train/loss", "group-of-two", tracker.artifact_name(encoder)):
        assert word in shown.stdout, shown.stdout[-1500:] + shown.stderr[-500:]


@pytest.mark.slow
def test_without_a_login_the_run_is_stored_offline(tmp_path):
    hidden = ("WANDB_MODE", "WANDB_API_KEY", "NETRC")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {
        "HOME": str(tmp_path),
        "OODGAN_CACHE": os.environ.get("OODGAN_CACHE", f"{Path.home()}/.cache/oodgan"),
    }
    fast = ["diffcam.fit.pairs=8", "diffcam.fit.held_out=4", "diffcam.fit.max_steps=1", "diffcam.fit.region_codes=1"]
    done = subprocess.run(
        [sys.executable, "-m", "oodgan", "diffcam", "experiment=tiny", "logger=wandb", *fast],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/tiny/diffcam/artifact/manifest.json").is_file()
    assert len(list((tmp_path / "runs/tiny/diffcam").rglob("offline-run-*/*.wandb"))) == 1
