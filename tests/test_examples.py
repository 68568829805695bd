"""The example of user-defined parts runs as its README says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import oodgan  # noqa: F401
from oodgan.tracking.loggers import read_csv

SHELL = ["bash", "-c"]
EXAMPLE = Path(__file__).parents[1] / "examples" / "own_parts"


@pytest.mark.slow
def test_user_defined_parts_train_with_the_command_in_the_readme(tmp_path, draw_face):
    folder = tmp_path / "mine"
    shutil.copytree(EXAMPLE, folder)
    faces = np.stack([np.asarray(draw_face(i, 32)) for i in range(24)])
    np.savez(folder / "faces.npz", images=faces)
    (line,) = re.findall(r"^PYTHONPATH=\. oodgan .*$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    sources = os.environ.get("PYTHONPATH", "")
    line = line.replace("PYTHONPATH=. oodgan", f"PYTHONPATH=.:{sources} {sys.executable} -m oodgan")

    def run(*more):
        return subprocess.run(
            [*SHELL, " ".join([line, *more])], cwd=folder, capture_output=True, text=True, timeout=600
        )

    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (folder / "runs/own/inversion").glob("training/images-*/metrics.csv")
    logged = {name for _, name, _ in read_csv(path)}
    assert {"val/edges", "val/edge_error", "val/l2", "val/psnr"} <= logged
    config = (path.parent / "config.yaml").read_text()
    assert "torch.optim.SGD" in config and "ReduceLROnPlateau" in config and "own_parts.callbacks" in config
    again = run()
    assert again.returncode == 0 and "up to date" in again.stderr
    changed = run("callbacks.gradient_norm.every=2")
    assert changed.returncode == 2 and "made with other settings (callbacks.gradient_norm)" in changed.stderr
