"""Means, table and pictures of an evaluation in an offline wandb run, read back from its files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from oodgan.stages import evaluate

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import config, folders, result  # noqa: F401  (folders is a fixture)


@pytest.mark.slow
def test_an_offline_run_contains_means_table_and_sheets(folders, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_MODE", "offline")
    evaluate.run(
        config(
            folders, logger={"wandb": {"_target_": "pytorch_lightning.loggers.WandbLogger", "project": "oodgan-tests"}}
        )
    )
    held = result(folders)["methods"]
    (place,) = (folders / "out/wandb").glob("offline-run-*")
    (near,) = place.rglob("media/images/sheets/near*.png")
    (far,) = place.rglob("media/images/sheets/far*.png")
    for picture, name in ((near, "near"), (far, "far")):
        assert Image.open(picture).convert("RGB").tobytes() == _rgb(folders / f"out/sheets/{name}.png")
    (table,) = place.rglob("media/table/evaluation*.table.json")
    rows = json.loads(table.read_text())
    assert rows["columns"] == ["method", "psnr", "ssim_gauss11"]
    assert {row[0]: row[1] for row in rows["data"]} == pytest.approx({m: held[m]["psnr"]["mean"] for m in held})
    binary = Path(sys.executable).parent / "wandb"
    shown = subprocess.run(
        [str(binary), "leet", "inspect", "--summary", "--json", str(place)], capture_output=True, text=True, timeout=120
    )
    summary = shown.stdout
    for method in held:
        assert f"{method}/psnr" in summary, summary[-1500:] + shown.stderr[-500:]
    assert f"{held['far']['psnr']['mean']:.4f}"[:5] in summary


def _rgb(path):
    return Image.open(path).convert("RGB").tobytes()
