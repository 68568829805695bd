"""The whole pipeline command on the 32 px generator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from oodgan.files import hash_of
from oodgan.tracking.artifacts import Manifest
from oodgan.tracking.loggers import read_csv
from oodgan.tracking.wandb import artifact_name

STAGES = ("inversion", "diffcam", "ghosts", "deghost")


def oodgan(root: Path, stage: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oodgan", stage, "experiment=tiny", f"root={root}", "logger=wandb", *words]
    own = {name: str(root.parent / "wandb") for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")}
    environment = {**os.environ, **own, "WANDB_MODE": "offline"}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=root, env=environment)


def modification_times(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chain")
    answer = oodgan(root, "pipeline")
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "report.html" in answer.stdout
    return root


@pytest.mark.slow
def test_every_stage_writes_an_artifact_with_a_manifest(finished: Path) -> None:
    manifests = {stage: Manifest.load(finished / "tiny" / stage / "artifact") for stage in STAGES}
    (generator,) = {manifest.generator for manifest in manifests.values()}
    assert generator and generator.startswith("stylegan2-32-")
    for stage, manifest in manifests.items():
        folder = finished / "tiny" / stage / "artifact"
        assert manifest.stage == stage and manifest.seed == 0 and manifest.settings_hash
        assert manifest.config["generator"]["_target_"] == "oodgan.generators.stylegan2.tiny"
        assert all((folder / name).is_file() for name in manifest.files) and manifest.files
    assert len(manifests["diffcam"].directions or []) == 4 == len(manifests["ghosts"].directions or [])
    assert manifests["ghosts"].counts == {"ghosts": 20, "skipped": 0}  # the training split of 24 images
    made_from = {
        "inversion": {},
        "diffcam": {},  # this experiment computes the directions in each stage
        "ghosts": {"inverter": "inversion", "diffcam": "diffcam"},
        "deghost": {"ghosts": "ghosts"},
    }
    for stage, inputs in made_from.items():
        hashes = {name: hash_of(finished / "tiny" / source / "artifact") for name, source in inputs.items()}
        assert manifests[stage].inputs == hashes
    assert {"codes/val/loss", "images/val/loss"} <= set(manifests["inversion"].metrics)
    assert not list(finished.rglob("partial-*")), "no partial folder is left"


@pytest.mark.slow
def test_the_report_has_a_row_for_each_edit_and_all_loss_curves(finished: Path) -> None:
    folder = finished / "tiny"
    table = json.loads((folder / "report.json").read_text())["table"]
    assert len(table) == 3 and all(row["seconds"] >= 0 for row in table)
    assert (folder / "report.html").stat().st_size > 20_000 and (folder / "report.png").is_file()
    curves = sorted(folder.glob("*/training/*/metrics.csv"))
    assert {path.parents[2].name for path in curves} == {"inversion", "diffcam", "deghost"}
    assert all(any(name == "val/loss" for _, name, _ in read_csv(path)) for path in curves)


def wandb_inspect(folder: Path, *options: str) -> str:
    """Returns wandb's own output for the one offline run below a folder."""
    (place,) = folder.rglob("offline-run-*")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", *options, str(place)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def lineage(folder: Path) -> tuple[set[str], set[str]]:
    """Returns the artifacts that the one offline wandb run below a folder logged, and those that it used."""
    text = wandb_inspect(folder)
    records = [json.loads(line)["artifact"] for line in text.splitlines() if '"type":"artifact"' in line]
    used = {record["name"] for record in records if record.get("use_after_commit")}
    return {record["name"] for record in records} - used, used


@pytest.mark.slow
def test_wandb_records_each_artifact_and_its_inputs(finished: Path, draw_face: Callable[..., Any]) -> None:
    folder = finished / "tiny"
    photos = finished.parent / "photos"
    photos.mkdir()
    for i in range(2):
        draw_face(i).save(photos / f"{i}.png")
    parts = {"inverter": "inversion", "diffcam": "diffcam", "deghoster": "deghost"}
    weights = [f"{part}.weights={folder / stage / 'artifact'}" for part, stage in parts.items()]
    metrics = ["metrics.resolution=32", "metrics.metrics=[psnr]", "metrics.sets=[]", "probes=null"]
    answer = oodgan(
        finished, "evaluate", f"photos={photos}", "methods={ours: ours}", "edits={sefa_01: 1.0}", *metrics, *weights
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert Manifest.load(folder / "evaluate").inputs == {p: hash_of(folder / s / "artifact") for p, s in parts.items()}
    names = {stage: artifact_name(folder / stage / "artifact") for stage in STAGES}
    names["evaluate"] = artifact_name(folder / "evaluate")
    used = {"inversion": (), "diffcam": (), "ghosts": ("inversion", "diffcam"), "deghost": ("ghosts",)}
    for stage, sources in {**used, "evaluate": parts.values()}.items():
        made, taken = lineage(sorted((folder / stage).rglob("wandb"))[-1])
        assert names[stage] in made and taken == {names[source] for source in sources}, stage


@pytest.mark.slow
def test_wandb_records_settings_curves_pictures_and_system_metrics(finished: Path) -> None:
    folders = {"deghost": finished / "tiny" / "deghost"}
    (folders["inversion"],) = (finished / "tiny/inversion/training").glob("images-*")
    for stage, folder in folders.items():
        held = json.loads(wandb_inspect(folder, "--summary"))
        assert held["config"]["stage"] == stage and held["config"]["deghoster"]["fit"]["max_steps"] == 8
        assert held["summary"]["val/loss"] > 0 and held["state"] == "finished"
        assert held["name"].startswith(f"{stage}-")
        (place,) = folder.rglob("offline-run-*")
        logged = Image.open(place / "files" / held["summary"]["validation"]["path"]).convert("RGB")
        (own,) = folder.rglob("validation.png")
        assert logged.tobytes() == Image.open(own).convert("RGB").tobytes()
        assert all(high - low > 100 for low, high in logged.getextrema()), "the picture is not uniform"
        records = wandb_inspect(folder)
        assert '"type":"stats"' in records and records.count('"val/loss"') > 2
        assert ("mask" in held["summary"]) == (stage == "deghost")
    assert held["config"]["run"] == "tiny"


@pytest.mark.slow
def test_a_second_run_skips_every_stage_and_other_settings_are_refused(finished: Path) -> None:
    before = modification_times(finished)
    again = oodgan(finished, "pipeline")
    assert again.returncode == 0 and "report.html" in again.stdout
    assert modification_times(finished) == before

    other = oodgan(finished, "pipeline", "diffcam.fit.lr=0.01")
    lines = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    assert other.returncode == 2 and len(lines) == 1 and "replace=true" in lines[0] and "diffcam" in lines[0]
    assert "Traceback" not in other.stderr
    assert modification_times(finished) == before


@pytest.mark.slow
def test_ghosts_of_another_generator_are_refused_with_both_ids(finished: Path) -> None:
    from oodgan.generators.stylegan2 import tiny

    before = modification_times(finished)
    answer = oodgan(finished, "deghost", "generator.seed=1")
    assert answer.returncode == 2 and answer.stderr.count("error: ") == 1
    assert tiny().id in answer.stderr and tiny(seed=1).id in answer.stderr
    assert modification_times(finished) == before
