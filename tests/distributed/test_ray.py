"""Sweeps on a Ray cluster of two nodes, on this machine's loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import oodgan  # noqa: F401

FAST = ["experiment=tiny", "diffcam.fit.pairs=8", "diffcam.fit.held_out=4", "diffcam.fit.region_codes=1"]


def command(folder, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "oodgan", "diffcam", "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def address():
    """The address of a cluster of two nodes with one CPU each."""
    pytest.importorskip("ray", reason="no Ray here: pip install 'oodgan[ray]'")
    from ray.cluster_utils import Cluster

    # Ray would replace 127.0.0.1 by the machine's own address, which a sandbox may not let it reach.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a busy machine a node needs more than half a minute
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        head = {"num_cpus": 1, "node_ip_address": "127.0.0.2", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_sweep_jobs_write_to_their_own_folders_and_finished_ones_are_skipped(address, tmp_path):
    ray = ["hydra=ray", f"hydra.launcher.init.address={address}"]
    done = command(tmp_path, *ray, *FAST, "sweep=two", "diffcam.fit.max_steps=2", "diffcam.fit.lr=1e-3,1e-2")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs/sweeps/two"
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*/job.json"))]
    assert [note["state"] for note in notes] == ["finished", "finished"]
    assert {json.loads(path.read_text())["group"] for path in folder.glob("*/training/*/run.json")} == {"two"}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cache", "sweeps"]
    again = command(tmp_path, *ray, *FAST, "sweep=two", "diffcam.fit.max_steps=2", "diffcam.fit.lr=1e-3,1e-2")
    assert again.returncode == 0 and (again.stdout + again.stderr).count("is finished already") == 2


@pytest.mark.slow
def test_study_trials_run_on_a_local_ray_cluster_and_are_pruned(tmp_path):
    pytest.importorskip("ray", reason="no Ray here: pip install 'oodgan[ray]'")
    pytest.importorskip("optuna")
    ray = ["hydra=optuna", "hydra/launcher=oodgan_ray"]
    prune = ["hydra.sweeper.pruner.n_startup_trials=1", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1"]
    steps = ["diffcam.fit.max_steps=4", "diffcam.fit.val_every=1", "diffcam.fit.lr=interval(1e-4,1.0)"]
    done = command(tmp_path, *ray, *prune, *steps, *FAST, "sweep=study")
    assert done.returncode == 0, done.stderr[-3000:]
    notes = [json.loads(path.read_text()) for path in (tmp_path / "runs/sweeps/study").glob("*/job.json")]
    states = [note["state"] for note in notes]
    assert len(states) == 4 and set(states) <= {"finished", "pruned"} and "finished" in states
    assert f"{states.count('finished')} complete, {states.count('pruned')} pruned, 0 failed" in done.stderr


@pytest.mark.slow
def test_a_missing_cluster_is_a_one_line_error(tmp_path):
    pytest.importorskip("ray", reason="no Ray here: pip install 'oodgan[ray]'")
    done = command(tmp_path, "hydra=ray", "hydra.launcher.init.address=127.0.0.1:1", *FAST, "seed=1,2")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "no Ray cluster at 127.0.0.1:1" in lines[0], done.stderr[-2000:]
