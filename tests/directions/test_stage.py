"""The command itself, on the tiny generator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from oodgan.directions.bank import Bank
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


def test_a_mistake_is_one_line(tmp_path: Path):
    done = _oodgan("directions=ffhq", "~directions.count", f"root={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: this stage makes directions")
