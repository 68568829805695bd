"""The directions command on the tiny generator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oodgan.directions.bank import Bank
from oodgan.directions.discovery import ProbeDiscovery
from oodgan.directions.probes import Probes
from oodgan.launch import compose
from oodgan.stages.directions import Findings, _measure, save_probes
from oodgan.tracking.artifacts import Manifest


def _oodgan(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oodgan", "directions", "experiment=tiny", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_import_writes_a_bank_a_card_and_a_contact_sheet(tmp_path: Path):
    np.save(tmp_path / "smile.npy", np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32))
    done = _oodgan("directions=import", "~directions.count", f"root={tmp_path}/runs", f"directions.files={tmp_path}")
    assert done.returncode == 0, done.stderr
    artifact = tmp_path / "runs" / "tiny" / "directions" / "artifact"
    bank = Bank.load(artifact)
    assert bank.names == ("smile",) and bank.num_ws == 8
    assert Manifest.load(artifact).directions == ["smile"]
    assert "| smile |" in (artifact / "card.md").read_text() and (artifact / "pictures" / "sheet.jpg").is_file()


def test_a_method_without_discovery_is_a_one_line_error(tmp_path: Path):
    done = _oodgan("directions=ffhq", "~directions.count", f"root={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: this stage makes directions")


@pytest.mark.network
def test_the_probes_of_both_halves_of_the_faces_are_saved(painter, painted: Path, tmp_path: Path):
    method = ProbeDiscovery(str(painted / "labels.csv"), str(painted / "images"), samples=20, size=64)
    result = method.discover(painter)
    bank = Bank(tuple(result.names), result.vectors, painter.id, painter.id)
    save_probes(Findings(bank, None, {}, result.check, result.probes), tmp_path)
    judge, seek = (Probes.load(tmp_path / name) for name in ("probes.safetensors", "probes_seek.safetensors"))
    assert judge.names == seek.names == ("disc", "top")
    assert not torch.allclose(judge.weights, seek.weights), "each half of the faces has its own probes"
    assert result.probes is not None and seek.quality == dict(result.probes.quality), "the probes used for discovery"


@pytest.mark.network
@pytest.mark.slow
def test_attributes_with_a_region_are_polished_and_recalibrated(painter, painted: Path):
    attributes = {"top": {"target": 1.0}, "disc": {"target": 1.0}}
    banks = []
    for polish in (None, {"place": [0.0, 0.5, 1.0, 1.0], "target": 0.7}):
        given = {**attributes, "disc": {**attributes["disc"], **({"polish": polish} if polish else {})}}
        method = ProbeDiscovery(
            str(painted / "labels.csv"), str(painted / "images"), given, samples=100, truncation=1.0, size=64,
            holdout=0.3, polish={"steps": 15, "codes": 8, "components": 8, "lr": 0.1},
        )  # fmt: skip
        cfg = compose("directions", ["generator=tiny", "check.samples=0", "calibrate.samples=2"])
        banks.append(_measure(cfg, painter, method.discover(painter)).bank)
    plain, polished = banks
    assert torch.equal(plain.vectors[0], polished.vectors[0]), "a direction without a region is unchanged"
    assert plain.calibration["disc"]["target"] == 1.0 and polished.calibration["disc"]["target"] == 0.7

    def leak(bank: Bank) -> float:
        change = painter.synthesis(bank.vectors[1:]) - painter.synthesis(torch.zeros(1, 4, 512))
        return float(change[..., :32, :].abs().mean() / change[..., 32:, :].abs().mean())

    assert leak(polished) < 0.7 * leak(plain)
