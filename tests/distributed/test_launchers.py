"""One stage started by torchrun, and by SLURM's variables: the first rank runs the stage, the others only its fit."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

import oodgan  # noqa: F401

OODGAN = [sys.executable, "-m", "oodgan"]
TINY = ["experiment=tiny", "diffcam.fit.max_steps=1", "diffcam.fit.checkpoint_every=1"]
# Speed settings for GPUs change the last digits, and so which of two almost equal values a maximum takes.
EXACT = ["trainer.precision=32-true", "trainer.channels_last=false"]
LAUNCHER = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "OODGAN_SPREAD")


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHER and not k.startswith("SLURM_")}
    return {**kept, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in more.items()}}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def srun(tasks, words, timeout=600):
    """Start `oodgan words` as srun does: once for each task, with SLURM's variables."""
    shared = {"SLURM_JOB_ID": 4242, "SLURM_JOB_NAME": "oodgan", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NODEID": 0}
    shared |= {"SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NUM_NODES": 1, "SLURM_NTASKS": tasks}
    shared |= {"MASTER_PORT": free_port()}
    started = [
        subprocess.Popen(
            [*OODGAN, *words],
            env=environment(**shared, SLURM_PROCID=n, SLURM_LOCALID=n),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(tasks)
    ]
    try:
        return [(process.communicate(timeout=timeout)[0], process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module")
def single_run(tmp_path_factory, tiny_chain):
    """A root with the run `one` of a single process, and the command-line words of that run."""
    from oodgan import launch

    root = tmp_path_factory.mktemp("launchers")
    bank = ["directions=bank", f"directions.path={tiny_chain}/tiny/directions/artifact", "~directions.count"]
    words = [*TINY, f"root={root}", *bank]
    assert launch.run("diffcam", ["run=one", *words]) == 0
    return root, words


def assert_same_step(root, run):
    """The run has written everything once, and its gradients equal those of the single process."""
    from oodgan.tracking.artifacts import Manifest
    from oodgan.training import checkpoints

    folder = root / run / "diffcam"
    assert Manifest.load(folder / "artifact").counts["pairs"] >= 32
    assert not [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".partial"))]
    saved = []
    for name in ("one", run):
        (path,) = (root / name / "diffcam").glob("training/*/checkpoints/last.ckpt")
        saved.append(checkpoints.load(path))
    one, two = saved
    assert two["global_step"] == 1 and one["position"] == two["position"]
    moments = [[s["exp_avg"] for o in c["optimizer_states"] for s in o["state"].values()] for c in saved]
    assert moments[0]
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(*moments, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(bool(shutil.which("slurmctld")), reason="test_slurm.py has a real SLURM")
def test_slurm_tasks_train_one_stage_together(single_run):
    root, words = single_run
    more = ["accelerator=cpu", "devices=2", *EXACT]
    result = srun(2, ["diffcam", "run=slurm", "trainer=slurm", *more, *words])
    assert [code for _, code in result] == [0, 0], result
    assert "edited pairs" not in result[1][0]  # the second rank renders nothing
    assert_same_step(root, "slurm")


@pytest.mark.slow
def test_an_unknown_key_ends_all_tasks_with_one_error(single_run):
    result = srun(2, ["diffcam", "run=wrong", "diffcam.fit.lrr=1", *single_run[1]])
    assert [code for _, code in result] == [2, 2], result
    assert "unknown key 'diffcam.fit.lrr'" in result[0][0]


@pytest.mark.slow
def test_a_single_slurm_task_runs_as_an_ordinary_process(single_run):
    root, words = single_run
    more = ["accelerator=cpu", "devices=1", *EXACT]
    ((text, code),) = srun(1, ["diffcam", "run=task", "trainer=slurm", *more, *words])
    assert code == 0, text
    assert_same_step(root, "task")


DIES = """
import os, signal, time
import pytorch_lightning as pl

class Once(pl.Callback):
    def __init__(self):
        # The other ranks must not connect to the address that this rank's former process left in the store.
        if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "1" and os.environ.get("RANK") == "1":
            time.sleep(5)

    def on_train_batch_end(self, trainer, module, *_):
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and trainer.global_step == 2 and trainer.global_rank == 1 and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from oodgan import launch

    (tmp_path / "dies.py").write_text(DIES)
    words = ["trainer=ddp", "accelerator=cpu", "experiment=tiny", "diffcam.fit.pairs=8", "diffcam.fit.held_out=4"]
    words += ["diffcam.fit.region_codes=1", "diffcam.fit.max_steps=4", "++diffcam.fit.checkpoint_every=1"]
    words += ["++callbacks.dies._target_=dies.Once", f"root={tmp_path}/runs"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "oodgan"]
    monkeypatch.syspath_prepend(tmp_path)
    assert launch.run("diffcam", ["run=whole", "devices=2", *words]) == 0
    done = subprocess.run(
        [*torchrun, "diffcam", "run=killed", *words], cwd=tmp_path, env=environment(KILL=1), capture_output=True,
        text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "(exitcode: -9) local_rank: 1" in done.stderr and done.stderr.count("diffcam: wrote") == 1
    )  # only one of the two ranks writes
    weights = [tmp_path / f"runs/{run}/diffcam/artifact/weights.safetensors" for run in ("whole", "killed")]
    mine, theirs = (load_file(path) for path in weights)
    assert all(bool((mine[name] == theirs[name]).all()) for name in mine)
