"""Further seeds are taken from the folder that OODGAN_REFERENCE names, beside the stored one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def put(folder: Path, seed: str) -> None:
    """The stored outputs and layouts under another seed's name."""
    for file in (HERE / "data").glob("published_networks_seed0*"):
        shutil.copy(file, folder / file.name.replace("seed0", f"seed{seed}"))


@pytest.mark.slow
def test_every_seed_of_the_folder_is_checked(tmp_path):
    put(tmp_path, "00")  # the same seed spelled otherwise: has to agree
    put(tmp_path, "1")  # outputs that seed 1 does not give: has to fail
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", f"{HERE / 'test_deghost.py'}::test_losses_agree"],
        env={**os.environ, "OODGAN_REFERENCE": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    lines = result.stdout.splitlines()
    for seed, outcome in (("0", "PASSED"), ("00", "PASSED"), ("1", "FAILED")):
        named = f"test_losses_agree[published_networks_seed{seed}]"
        assert any(line.startswith(outcome) and named in line for line in lines), result.stdout
    assert "perceptual.loss: relative error" in result.stdout
