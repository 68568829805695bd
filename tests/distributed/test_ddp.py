"""Two processes take the same steps as one on the same global batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import oodgan  # noqa: F401

SMALL = str(Path(__file__).parents[1] / "training")
CASES = [("Gan", 2), ("Regression", 1)]
RUN = """
import sys

sys.path.insert(0, {small!r})
import oodgan
from small import Gan, PointData, Regression
from oodgan.training.fit import fit


def run(kind, accumulate, processes, folder):
    if kind == "Gan":
        module = Gan(noise=0.0)
    else:
        module = Regression()
        module.drop.p = module.noise = 0.0
    trainer = {{"accelerator": "cpu", "devices": processes, "log_every_n_steps": 1}}
    settings = {{"max_steps": 3, "batch_size": 8, "val_every": 2, "accumulate": accumulate}}
    return fit(module, PointData(), cfg={{"trainer": trainer, "stage": "ddp"}}, settings=settings, folder=folder)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the same runs, by one process (this one) and by two."""
    folder = tmp_path_factory.mktemp("ddp")
    script = RUN.format(small=SMALL)
    scope: dict = {}
    exec(script, scope)
    for kind, accumulate in CASES:
        scope["run"](kind, accumulate, 1, folder / "1" / kind)
    script += f"for kind, accumulate in {CASES}:\n    run(kind, accumulate, 2, sys.argv[1] + '/2/' + kind)\n"
    command = [sys.executable, "-c", script, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", [case[0] for case in CASES])
def test_two_processes_take_the_same_steps_as_one(runs, kind):
    from oodgan.training import checkpoints

    one, two = (checkpoints.load(runs / n / kind / "checkpoints/last.ckpt") for n in ("1", "2"))
    assert one["global_step"] == two["global_step"] == 3
    assert one["position"] == two["position"]
    for name, value in one["state_dict"].items():
        assert (value.double() - two["state_dict"][name].double()).abs().max() < 1e-5, name
    moments, others = ([[s["exp_avg"] for s in o["state"].values()] for o in c["optimizer_states"]] for c in (one, two))
    assert len(moments) == (2 if kind == "Gan" else 1)
    for mine, theirs in zip(moments, others, strict=True):
        # Adam's first moment is the running mean of the gradients themselves.
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(mine, theirs, strict=True))


@pytest.mark.slow
def test_a_run_fails_when_one_rank_fails(tmp_path):
    script = """
from oodgan.errors import UserError
from oodgan.training.spread import rank

def work(path):
    if rank() == 1:
        raise UserError("rank one cannot")
    open(path, "w").write(str(rank()))
"""
    (tmp_path / "worker_module.py").write_text(script)
    code = (
        "import sys; sys.path.insert(0, '.'); import oodgan, worker_module\n"
        "from oodgan.training.spread import spread\n"
        "from oodgan.errors import UserError\n"
        "try:\n    spread(2, worker_module.work, 'zero.txt')\n"
        "except UserError as error:\n    print('caught', error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "caught a process of this run failed (exit codes [2])" in done.stdout, done.stderr
    assert "error (rank 1): rank one cannot" in done.stderr
    assert (tmp_path / "zero.txt").read_text() == "0"
