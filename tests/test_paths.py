"""The folders and files of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from oodgan.launch import compose
from oodgan.paths import RunFolder, StageFolder, find_checkpoint


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_configuration_determines_its_run_and_stage_folders() -> None:
    cfg = compose("diffcam", ["root=here", "run=mine"])
    assert StageFolder.of(cfg) == RunFolder.of(cfg).stage("diffcam") == StageFolder(Path("here/mine/diffcam"))
    elsewhere = OmegaConf.merge(cfg, {"folder": "sweeps/lr/3"})
    assert StageFolder.of(elsewhere).artifact == Path("sweeps/lr/3/artifact")


def test_training_folders_of_a_stage_are_listed_with_their_phase(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    codes, images = stage.fit("0123456789abcdef", "codes"), stage.fit("0123456789abcdef", "images")
    assert stage.fits() == [] and codes != images != stage.fit("fedcba9876543210", "images")
    for fit in (images, codes):
        touch(fit.metrics_csv)
    assert stage.fits() == [codes, images] and [fit.phase for fit in stage.fits()] == ["codes", "images"]
    assert stage.fit("0123456789abcdef").phase == ""


def test_a_checkpoint_is_found_from_each_folder_above_it(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    assert find_checkpoint(stage.path, best=True) is None
    older, newer = stage.fit("0123456789", "codes"), stage.fit("0123456789", "images")
    for fit in (older, newer):
        touch(fit.last)
    os.utime(older.last.parent, (1, 1))
    touch(newer.best)
    assert find_checkpoint(stage.path, best=True) == newer.best
    assert find_checkpoint(stage.path, best=False) == newer.last
    assert find_checkpoint(older.path, best=True) == find_checkpoint(older.last.parent, best=True) == older.last


@pytest.mark.parametrize(
    "file", ["manifest.json", "artifact/manifest.json", "job.json", "metrics.csv", "training/a-1/metrics.csv"]
)
def test_run_folders_are_recognised(tmp_path: Path, file: str) -> None:
    stage = StageFolder(tmp_path / "run")
    assert not stage.is_run()
    touch(tmp_path / "run" / "notes.txt")
    assert not stage.is_run()
    touch(tmp_path / "run" / file)
    assert stage.is_run()


def test_pictures_of_a_stage_are_listed_before_those_of_its_training(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    late, own = touch(stage.fit("0" * 10).picture), touch(tmp_path / "sheet.jpg")
    touch(stage.artifact / "weights.safetensors")
    assert stage.pictures() == [own, late]
