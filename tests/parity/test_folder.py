"""OODGAN_REFERENCE names a folder with more seeds, which are checked besides the stored one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def copy_reference(folder: Path, seed: str) -> None:
    """Copy the stored outputs and layouts under another seed's name."""
    for file in (HERE / "data").glob("published_networks_seed0*"):
        shutil.copy(file, folder / file.name.replace("seed0", f"seed{seed}"))


@pytest.mark.slow
def test_every_seed_in_the_reference_folder_is_checked(tmp_path):
    copy_reference(tmp_path, "00")  # the same seed in another spelling: must pass
    copy_reference(tmp_path, "1")  # not the outputs of seed 1: must fail
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rA",
            f"{HERE / 'test_deghost.py'}::test_the_losses_equal_the_published_ones",
        ],
        env={**os.environ, "OODGAN_REFERENCE": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    lines = result.stdout.splitlines()
    for seed, outcome in (("0", "PASSED"), ("00", "PASSED"), ("1", "FAILED")):
        named = f"test_the_losses_equal_the_published_ones[published_networks_seed{seed}]"
        assert any(line.startswith(outcome) and named in line for line in lines), result.stdout
    assert "perceptual.loss: relative error" in result.stdout
