"""On a real SLURM of two nodes: the same results as one process, time limits, lost nodes, sweeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import oodgan  # noqa: F401
from oodgan import launch

OODGAN = [sys.executable, "-m", "oodgan"]
# Random parts that differ between processes (dropout, occluded faces) are off.
EXACT = ["inverter.encoder.dropout=0", "inverter.fit.images.module.occlusion=0"]
EXACT += ["inverter.fit.codes.max_steps=1", "inverter.fit.images.max_steps=1"]
OF_STAGE = {"inversion": EXACT, "diffcam": ["diffcam.fit.max_steps=1"], "deghost": ["deghoster.fit.max_steps=1"]}
TINY = ["experiment=tiny"]
# The kernels of channels_last differ in the last digits, which a maximum or Adam amplifies.
SPREAD = ["trainer=slurm", "accelerator=cpu", "trainer.precision=32-true", "trainer.channels_last=false"]
NODES = ["-N2", "--ntasks-per-node=1"]
FAST = ["experiment=tiny", "diffcam.fit.pairs=8", "diffcam.fit.held_out=4", "diffcam.fit.region_codes=1"]

WAITS = """
import os, time
import pytorch_lightning as pl

class WaitForSignal(pl.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        from oodgan.training.callbacks import StopOnSignal
        stop = next(c for c in trainer.callbacks if isinstance(c, StopOnSignal))
        if trainer.global_step == 2 and not os.environ.get("SLURM_RESTART_COUNT"):
            open("waiting", "w").close()
            while stop.received is None:
                time.sleep(0.2)
"""
WAIT = "++callbacks.waits._target_=waits.WaitForSignal"

SEVERAL = """
import sys

from oodgan import launch
from oodgan.ranks import joined

with joined() as follow:
    if follow:
        sys.exit(follow())
    for stage, words in {commands!r}:
        launch.run(stage, words)
"""


def run_outside_of_jobs(cluster, folder, *words, timeout=900):
    """Run the command on this machine, outside any job."""
    command = [*OODGAN, *words]
    return subprocess.run(command, cwd=folder, env=cluster.environment, capture_output=True, text=True, timeout=timeout)


def moments(folder: Path):
    """(step, Adam's first moments) of each training below a stage's folder: the running means of the gradients."""
    from oodgan.training import checkpoints

    result = {}
    for path in sorted(folder.glob("training/*/checkpoints/last.ckpt")):
        saved = checkpoints.load(path)
        states = [state["exp_avg"] for o in saved["optimizer_states"] for state in o["state"].values()]
        result[path.parents[1].name.partition("-")[0] if "-" in path.parents[1].name else ""] = (
            saved["global_step"], states,
        )  # fmt: skip
    return result


def assert_same_steps(one: Path, other: Path) -> None:
    mine, theirs = moments(one), moments(other)
    assert mine and mine.keys() == theirs.keys()
    for phase, (step, states) in mine.items():
        assert theirs[phase][0] == step and len(states) == len(theirs[phase][1]) > 0
        for a, b in zip(states, theirs[phase][1], strict=True):
            assert (a - b).abs().max() < 1e-5, phase


def job(folder: Path, *words: str) -> str:
    command = " ".join(
        [*OODGAN, "diffcam", *FAST, "diffcam.fit.max_steps=4", "++diffcam.fit.checkpoint_every=1", *words]
    )
    return f"#!/bin/bash\ncd {folder}\nsrun --kill-on-bad-exit=1 {command}\n"


@pytest.fixture(scope="module")
def timed_out(slurm, tmp_path_factory):
    """Two jobs of one minute that wait for its end: (folder, number) of a batch job, (folder, process) of a sweep.

    The tests before those of time limits run during this minute.
    """
    batch, sweep = (tmp_path_factory.mktemp(name) for name in ("batch", "sweep"))
    for folder in (batch, sweep):
        (folder / "waits.py").write_text(WAITS)
    script = job(batch, *SPREAD, WAIT)
    number = slurm.sbatch(script, *NODES, "--time=1", "--requeue", "--open-mode=append", f"--output={batch}/out")
    words = ["hydra=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=1", *FAST]
    words += ["hydra.launcher.signal_delay_s=20", WAIT, "sweep=late"]
    command = [*OODGAN, "diffcam", "-m", *words, "diffcam.fit.max_steps=4", "diffcam.fit.lr=1e-3"]
    with (sweep / "printed").open("w") as printed:
        process = subprocess.Popen(command, cwd=sweep, env=slurm.environment, stdout=printed, stderr=printed)
    yield (batch, number), (sweep, process)
    process.kill()


@pytest.fixture(scope="module")
def single_process(slurm, timed_out, tmp_path_factory):
    """A folder with the run `one` of a single process, and the command-line words that use its artifacts."""
    folder = tmp_path_factory.mktemp("alone")
    words = [word for words in OF_STAGE.values() for word in words]
    assert launch.run("pipeline", ["run=one", f"root={folder}/runs", *TINY, *words]) == 0
    parts = {"inverter": "inversion", "diffcam": "diffcam"}
    return folder, [f"{part}.weights={folder}/runs/one/{stage}/artifact" for part, stage in parts.items()]


@pytest.fixture(scope="module")
def two_nodes(slurm, single_process, draw_face):
    """What two tasks on two nodes print: the trainings as run `two`, then ghosts and scores as run `three`. All in the
    same tasks, which import everything once. Scores of a single process are in the run `one`."""
    folder, weights = single_process
    photos = folder / "photos"
    photos.mkdir()
    for i in range(3):  # an odd number: the nodes get 2 and 1
        draw_face(i).save(photos / f"{i}.png")
    judged = [f"photos={photos}", "methods={plain: plain, ours: ours}", "edits={sefa_01: 1.0}", "probes=null"]
    judged += ["metrics.resolution=32", "metrics.metrics=[psnr]", "metrics.sets=[]", "code_cache=0"]
    judged += [f"deghoster.weights={folder}/runs/one/deghost/artifact"]
    given = [f"root={folder}/runs", *TINY, *weights]
    assert launch.run("evaluate", [*given, *judged, "run=one"]) == 0
    words = [f"root={folder}/runs", "run=two", *TINY, *SPREAD]
    more = {"deghost": [f"deghoster.ghosts_from={folder}/runs/one/ghosts/artifact"]}
    commands = [(stage, [*words, *OF_STAGE[stage], *more.get(stage, [])]) for stage in OF_STAGE]
    given += ["run=three", *SPREAD]
    commands += [("ghosts", given), ("evaluate", [*given, *judged])]
    script = folder / "several.py"
    script.write_text(SEVERAL.format(commands=commands))
    done = slurm.srun(*NODES, sys.executable, str(script))
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_training_on_two_nodes_takes_the_same_steps_as_one_process(single_process, two_nodes):
    runs = single_process[0] / "runs"
    for stage in OF_STAGE:
        assert two_nodes.count(f"{stage}: wrote") == 1  # only one of the two tasks writes
        assert_same_steps(runs / "one" / stage, runs / "two" / stage)


@pytest.mark.slow
def test_ghosts_and_scores_of_two_nodes_equal_those_of_one_process(single_process, two_nodes):
    from safetensors.torch import load_file

    runs = single_process[0] / "runs"
    assert two_nodes.count("ghosts: wrote") == 1
    ghosts = {run: sorted((runs / run / "ghosts/artifact").rglob("*.safetensors")) for run in ("one", "three")}
    assert [p.name for p in ghosts["one"]] == [p.name for p in ghosts["three"]] and len(ghosts["one"]) >= 1
    for one, other in zip(ghosts["one"], ghosts["three"], strict=True):
        mine, theirs = load_file(one), load_file(other)
        assert all((mine[key].float() - theirs[key].float()).abs().max() <= 1 for key in mine)
    result = {
        run: json.loads((runs / run / "evaluate/metrics.json").read_text())["methods"] for run in ("one", "three")
    }
    for method, scores in result["one"].items():
        assert result["three"][method]["psnr"]["mean"] == pytest.approx(scores["psnr"]["mean"], abs=1e-4)


@pytest.mark.slow
def test_a_cancelled_job_is_not_requeued(slurm, tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    script = job(tmp_path, *SPREAD, WAIT)
    number = slurm.sbatch(script, *NODES, "--requeue", "--open-mode=append", f"--output={tmp_path}/out")
    slurm.wait_until(lambda: (tmp_path / "waiting").exists())
    slurm.run("scancel", number)
    slurm.wait_until(lambda: "stopped by SIGTERM" in (tmp_path / "out").read_text())
    shown = slurm.wait(number, ("CANCELLED", "FAILED", "COMPLETED"))
    assert shown["JobState"] == "CANCELLED" and shown["Restarts"] == "0"
    assert list(tmp_path.glob("runs/tiny/diffcam/training/*/checkpoints/last.ckpt"))


@pytest.mark.slow
def test_a_sweep_starts_slurm_jobs_of_two_tasks_each(slurm, tmp_path):
    words = ["hydra=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.tasks_per_node=2", *SPREAD, *FAST]
    words += ["diffcam.fit.max_steps=2", "diffcam.fit.lr=1e-3,1e-2", "sweep=two"]
    done = run_outside_of_jobs(slurm, tmp_path, "diffcam", "-m", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs/sweeps/two"
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*/job.json"))]
    assert [note["state"] for note in notes] == ["finished", "finished"]
    assert len({note["result"]["objective"] for note in notes}) == 2
    assert len(list(folder.glob("*/artifact/weights.safetensors"))) == 2
    assert len(list((tmp_path / "runs/cache/pairs").glob("*/*.safetensors"))) == 1  # rendered once for both
    logs = [path.read_text() for path in sorted((folder / ".submitit").glob("*/*.err"))]
    assert len(logs) == 4 and sum("diffcam: wrote" in log for log in logs) == 2


@pytest.mark.slow
def test_a_job_that_slurm_rejects_is_a_one_line_error(slurm, tmp_path):
    words = ["diffcam", "-m", *FAST, "hydra=slurm_cpu", "hydra.launcher.partition=nowhere", "seed=1,2"]
    done = run_outside_of_jobs(slurm, tmp_path, *words)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "invalid partition" in lines[0].lower()


def test_a_missing_cluster_is_a_one_line_error(tmp_path):
    environment = {**os.environ, "PATH": "/nowhere"}
    command = [*OODGAN, "diffcam", "-m", "hydra=slurm", *FAST, "seed=1,2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "srun" in lines[0] and "hydra=submitit" in lines[0]


@pytest.mark.slow
def test_a_batch_script_without_srun_runs_as_one_process_and_warns(slurm, tmp_path):
    command = " ".join([*OODGAN, "diffcam", *FAST, "diffcam.fit.max_steps=1"])
    number = slurm.sbatch(f"#!/bin/bash\ncd {tmp_path}\n{command}\n", "-N1", "-n2", f"--output={tmp_path}/out")
    assert slurm.wait(number, ("COMPLETED", "FAILED", "CANCELLED"))["JobState"] == "COMPLETED"
    assert "SLURM gave this job 2 tasks, but srun did not start this command" in (tmp_path / "out").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same training by two processes without SLURM."""
    folder = tmp_path_factory.mktemp("whole")
    words = [*FAST, "trainer=ddp", "devices=2", *SPREAD[1:], "diffcam.fit.max_steps=4", f"root={folder}/runs"]
    assert launch.run("diffcam", words) == 0
    return folder / "runs/tiny/diffcam"


def assert_same_weights(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    mine, theirs = (load_file(place / "artifact/weights.safetensors") for place in (one, other))
    assert mine.keys() == theirs.keys()
    assert all(bool((mine[name] == theirs[name]).all()) for name in mine)


@pytest.mark.slow
def test_a_requeued_job_ends_with_the_same_weights_as_an_uninterrupted_one(slurm, timed_out, uninterrupted):
    (folder, number), _ = timed_out
    slurm.wait_until(lambda: slurm.job(number)["Restarts"] == "1")  # after SLURM's time limit
    shown = slurm.wait(number, ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"))
    output = (folder / "out").read_text()
    assert shown["JobState"] == "COMPLETED" and shown["Restarts"] == "1", output[-3000:]
    assert "DUE TO TIME LIMIT" in output and "the job was requeued in SLURM" in output
    assert_same_weights(uninterrupted, folder / "runs/tiny/diffcam")


@pytest.mark.slow
def test_a_sweep_job_that_times_out_is_requeued_and_finishes(slurm, timed_out):
    _, (folder, process) = timed_out
    assert process.wait(timeout=600) == 0, (folder / "printed").read_text()[-3000:]
    (note,) = [json.loads(path.read_text()) for path in (folder / "runs/sweeps/late").glob("*/job.json")]
    assert note["state"] == "finished"
    logs = "".join(path.read_text() for path in (folder / "runs/sweeps/late/.submitit").glob("*/*.err"))
    assert logs.count("diffcam: wrote") == 1 and "Caught signal SIGUSR2" in logs


@pytest.mark.slow
def test_a_job_that_loses_a_node_is_requeued_and_ends_with_the_same_weights(slurm, uninterrupted, tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    script = job(tmp_path, *SPREAD, WAIT)
    number = slurm.sbatch(script, *NODES, "--requeue", "--open-mode=append", f"--output={tmp_path}/out")
    slurm.wait_until(lambda: (tmp_path / "waiting").exists())
    slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    slurm.wait_until(lambda: slurm.job(number)["Restarts"] == "1")
    slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME", check=False)  # it may have returned by itself
    shown = slurm.wait(number, ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED"))
    assert shown["JobState"] == "COMPLETED", (tmp_path / "out").read_text()[-3000:]
    assert_same_weights(uninterrupted, tmp_path / "runs/tiny/diffcam")
