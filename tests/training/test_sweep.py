"""Sweeps of the real command with `experiment=tiny`."""

import json
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

import oodgan  # noqa: F401
from oodgan.cli import main
from oodgan.errors import UserError
from oodgan.paths import RunFolder
from oodgan.training import sweep


def command(*words, timeout=900):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "oodgan", *words], env=environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def diffcam(tmp_path_factory, tiny_chain):
    """`diffcam(*words)`: run a sweep of `oodgan diffcam` with the tiny generator, below `diffcam.root`."""
    root = tmp_path_factory.mktemp("sweeps")
    known = ["directions=bank", f"directions.path={tiny_chain}/tiny/directions/artifact", "~directions.count"]

    sweep = ["diffcam", "-m", "experiment=tiny", f"root={root}", f"cache={tiny_chain}/cache", *known]

    def run(*words):
        return command(*sweep, *words)

    run.root, run.sweep = root, sweep
    return run


@pytest.fixture
def run_in_process(capsys):
    """`run_in_process(*words)`: run a command in this process, without new imports; returns exit code and stderr."""

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*words])
        return stop.value.code, capsys.readouterr().err

    return run


def states(folder):
    return {int(p.parent.name): json.loads(p.read_text())["state"] for p in folder.glob("*/job.json")}


@pytest.mark.slow
def test_finished_sweep_jobs_are_skipped_and_compared(diffcam, run_in_process):
    place, words = diffcam.root, ("sweep=lr", "diffcam.fit.lr=1e-3,1e-2", "seed=1,2")
    done = diffcam("hydra=joblib", "hydra.launcher.n_jobs=2", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = place / "sweeps" / "lr"
    assert states(folder) == dict.fromkeys(range(4), "finished")
    identities = [json.loads(p.read_text()) for p in folder.glob("*/training/*/run.json")]
    assert len({i["id"] for i in identities}) == 4 and {i["group"] for i in identities} == {"lr"}
    (folder / "3" / "job.json").unlink()
    before = (folder / "0" / "artifact" / "manifest.json").stat().st_mtime_ns
    code, message = run_in_process(*diffcam.sweep, *words)
    assert code == 0, message[-2000:]
    assert message.count("is finished already") == 3
    assert states(folder)[3] == "finished"
    assert (folder / "0" / "artifact" / "manifest.json").stat().st_mtime_ns == before
    code, message = run_in_process(*diffcam.sweep, "sweep=lr", "diffcam.fit.lr=5e-3,6e-3")
    assert code == 2 and "belongs to another job" in message
    code, message = run_in_process("compare", "sweep=lr", f"root={place}", f"output={place}/page")
    assert code == 0, message[-2000:]
    table = (place / "page" / "comparison.md").read_text()
    assert "diffcam.fit.lr" in table and "±" in table and len(table.splitlines()) == 4
    assert "data:image/png" in (place / "page" / "comparison.html").read_text()


@pytest.mark.slow
def test_submitit_runs_each_job_on_one_gpu(diffcam):
    pytest.importorskip("submitit")
    done = diffcam("hydra=submitit", "sweep=cluster", "seed=1,2", "diffcam.fit.max_steps=2", "gpu_slots=[3,5]")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = diffcam.root / "sweeps" / "cluster"
    assert states(folder) == {0: "finished", 1: "finished"}
    jobs = [json.loads(p.read_text()) for p in sorted(folder.glob("*/job.json"))]
    assert {job["gpu"] for job in jobs} <= {3, 5}
    identities = [json.loads(p.read_text()) for p in folder.glob("*/training/*/run.json")]
    assert len({i["id"] for i in identities}) == 2 and {i["group"] for i in identities} == {"cluster"}
    assert list((folder / ".submitit").glob("*/*_submitted.pkl"))  # submitit did run them


@pytest.mark.slow
def test_a_study_records_crashed_trials_and_resumes(diffcam, run_in_process):
    space = ("hydra=optuna", "sweep=study", "diffcam.fit.lr=tag(log,interval(1e-4,1e-1))")
    # A trial with max_steps=0 crashes.
    words = (*diffcam.sweep, *space, "diffcam.fit.max_steps=choice(4,0)")
    code, message = run_in_process(*words, "hydra.sweeper.n_trials=6")
    assert code == 0, message[-2000:]
    assert "failed: max_steps is 0" in message
    import optuna

    def trials():
        study = optuna.load_study(study_name="study", storage=f"sqlite:///{diffcam.root}/sweeps/study/study.db")
        return {t.number: t.state.name for t in study.trials}

    first = trials()
    assert len(first) == 6 and {"COMPLETE", "FAIL"} <= set(first.values())
    finished = sum(state in ("COMPLETE", "PRUNED") for state in first.values())
    code, message = run_in_process(*words, f"hydra.sweeper.n_trials={finished}")
    assert code == 0, message[-2000:]
    assert f"{finished} of {finished} trials finished" in message
    assert trials() == first


@pytest.mark.slow
def test_a_study_prunes_a_bad_trial(tmp_path, monkeypatch):
    import optuna

    sys.path.insert(0, os.path.dirname(__file__))
    from small import PointData, Regression

    from oodgan.training.fit import fit
    from oodgan.training.study import TRIAL_FILE, Pruner

    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=storage)
    for value in (1e-6, 1e-6):
        good = study.ask()
        for step in (2, 4, 6, 8):
            good.report(value, step)
        study.tell(good, value)
    trial = study.ask()
    link = {"storage": storage, "study": "s", "trial": trial.number}
    (tmp_path / TRIAL_FILE).write_text(json.dumps(link))
    pruner = Pruner(tmp_path, "val/loss")
    monkeypatch.setattr(pruner, "_pruner", lambda: optuna.pruners.MedianPruner(n_startup_trials=1))
    cfg = {"trainer": {"accelerator": "cpu"}}
    settings = {"max_steps": 8, "batch_size": 8, "val_every": 2, "monitor": "val/loss"}
    with pytest.raises(sweep.Pruned, match="pruned at step 2"):
        fit(Regression(), PointData(), cfg=cfg, settings=settings, folder=tmp_path / "run", callbacks=[pruner])


def test_concurrent_jobs_each_get_a_different_gpu(tmp_path):
    script = (
        "import os, sys, time, oodgan\n"
        "from oodgan.training.sweep import gpu_slot\n"
        "with gpu_slot([2, 5], __import__('pathlib').Path(sys.argv[1])):\n"
        "    print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    start = [sys.executable, "-c", script, str(tmp_path)]
    jobs = [subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {job.stdout.readline().strip() for job in jobs} == {"2", "5"}
    third = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    jobs[0].communicate("\n", timeout=30)
    free = third.stdout.readline().strip()
    jobs[1].communicate("\n", timeout=30)
    third.communicate("\n", timeout=30)
    assert free in {"2", "5"}


def test_all_failed_jobs_are_reported_at_the_end(tmp_path, capsys):
    words = ["experiment=tiny", f"root={tmp_path}/it's", "sweep=s", "diffcam.fit.batch_size=0,-1,many"]
    with pytest.raises(SystemExit) as stop:
        main(["diffcam", "-m", *words])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert "Error executing job" not in printed  # Hydra's own message
    message = printed.strip().splitlines()[-1]
    assert message.startswith("error: 3 of 3 jobs failed: 0 (diffcam.fit.batch_size=0): ")
    assert "; 1 (diffcam.fit.batch_size=-1): " in message and "; 2 (diffcam.fit.batch_size=many): " in message
    assert states(tmp_path / "it's" / "sweeps" / "s") == dict.fromkeys(range(3), "failed")


def set_hydra_job(folder, monkeypatch):
    """Set Hydra's configuration to that of a sweep's job 0 with this output folder, and return it."""
    job = {"runtime": {"output_dir": str(folder)}, "overrides": {"task": ["a=1"]}, "job": {"num": 0}}
    hydra = OmegaConf.create({"mode": "MULTIRUN", **job})
    monkeypatch.setattr(sweep, "_hydra", lambda: hydra)
    return hydra


def test_a_pipeline_job_writes_its_own_run_and_shares_the_cache(tmp_path, monkeypatch):
    set_hydra_job(tmp_path / "sweeps/seeds/0", monkeypatch)
    cfg = OmegaConf.create({"stage": "pipeline", "root": str(tmp_path), "run": "tiny", "cache": "${root}/cache"})
    ran = sweep.job(cfg, lambda own: {"run": str(RunFolder.of(own).path), "cache": own.cache})
    assert ran == {"run": str(tmp_path / "sweeps/seeds/0"), "cache": str(tmp_path / "cache")}


def test_a_finished_job_is_not_run_again(tmp_path, monkeypatch):
    hydra = set_hydra_job(tmp_path / "0", monkeypatch)
    cfg = OmegaConf.create({"folder": "elsewhere", "resume": None})
    calls = []

    def stage(cfg):
        calls.append((cfg.folder, cfg.resume))
        if len(calls) == 1:
            raise RuntimeError("lost")
        return {"objective": 1.5}

    with pytest.raises(RuntimeError, match="lost"):
        sweep.job(cfg, stage)
    assert sweep.read_job(tmp_path / "0")["state"] == "failed"
    assert sweep.job(cfg, stage) == {"objective": 1.5}
    assert sweep.job(cfg, stage) == {"objective": 1.5}
    assert calls == [(str(tmp_path / "0"), "auto")] * 2
    hydra.overrides.task = ["a=2"]
    with pytest.raises(UserError, match=r"belongs to another job \(a=1\)"):
        sweep.job(cfg, stage)
