"""Every sweep in `experiments/` uses valid keys of the commands that it calls, and runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oodgan  # noqa: F401
from oodgan.cli import main
from oodgan.evaluation import altered
from oodgan.evaluation.methods import variants
from oodgan.evaluation.photo_set import PhotoSet
from oodgan.launch import compose
from oodgan.tracking.artifacts import plain

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ARGUMENTS = {"deghost_losses/run.sh": ["run=demo"]}
EVALUATIONS = ["embedded/run.sh", "strength_and_threshold/run.sh"]
SCRIPTS = [
    "deghost_losses/run.sh",
    "diffcam_layers/run.sh",
    "diffcam_layers/study.sh",
]
JOBS = {"deghost_losses/run.sh": 12, "diffcam_layers/run.sh": 8}
RUN = {"deghost_losses/run.sh": 4, "diffcam_layers/run.sh": 2, "diffcam_layers/study.sh": 3}
TINY = ["experiment=tiny", "root=elsewhere"]
SMALL = {
    "deghost_losses/run.sh": ["run=tiny", "deghoster.fit.max_steps=2"],
    "diffcam_layers/run.sh": ["diffcam.fit.max_steps=2"],
    "diffcam_layers/study.sh": ["diffcam.fit.max_steps=4", "diffcam.fit.pairs=96", "hydra.sweeper.n_trials=3"],
}


def calls(script, folder, *words):
    """Returns the words of each `oodgan` command that a script runs when it is called with `words`."""
    recorder = folder / "oodgan"
    log = repr(str(folder / "calls"))
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open({log}, 'a'))\n"
    )
    recorder.chmod(0o755)
    (folder / "python").write_text("#!/bin/sh\n")  # replaces the Python that merges the tables
    (folder / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["sh", str(EXPERIMENTS / script), *words], env=environment, check=True, cwd=folder)
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_sweeps_overrides_compose_to_a_valid_configuration(tmp_path, script):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep

    for stage, *words in calls(script, tmp_path, *ARGUMENTS.get(script, [])):
        jobs, chosen = 1, []
        for override in OverridesParser.create().parse_overrides([w for w in words if w != "-m"]):
            if isinstance(override.value(), ChoiceSweep):
                values = list(override.sweep_string_iterator())
                jobs *= len(values)
                chosen.append(f"{override.get_key_element()}={values[-1]}")
            elif not override.is_sweep_override():
                chosen.append(override.input_line)
        cfg = compose(stage, [c for c in chosen if not c.startswith("hydra.sweeper")])
        assert cfg.stage == stage
        if "-m" in words:
            assert cfg.sweep == words[2].partition("=")[2]
            assert jobs == JOBS.get(script, jobs)


@pytest.mark.parametrize("script", EVALUATIONS)
def test_the_methods_of_each_evaluation_change_existing_parts(tmp_path, script, monkeypatch):
    monkeypatch.setenv("ROOT", str(tmp_path))
    commands = calls(script, tmp_path, "photos")
    assert [words[0] for words in commands] == ["evaluate"] * 4  # one per edit
    cfg = plain(compose("evaluate", commands[0][1:]))
    rows = variants(cfg["methods"], cfg["strengths"])
    altered.check(cfg, rows.values())
    changed = [row for row in rows.values() if row.changes]
    assert len(changed) >= 8 and len(rows) == len({*rows})


def test_each_removal_is_evaluated_on_its_own_set(tmp_path):
    commands = calls("removals/run.sh", tmp_path, "photos", "null", "recogniser.onnx")
    for attribute, words in zip(("eyeglasses", "smile", "beard", "bangs"), commands, strict=True):
        cfg = compose("evaluate", words[1:])
        assert words[0] == "evaluate" and dict(cfg.edits) == {attribute: -1} and cfg.masks is None
        assert len(PhotoSet.read(cfg.set).hashes) == 20 and Path(cfg.set).stem == f"removal-{attribute}"


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in EXPERIMENTS.glob("*/run.sh")))
def test_the_readme_of_each_experiment_starts_with_a_question(folder):
    assert (EXPERIMENTS / folder / "README.md").read_text().partition("\n")[0].endswith("?") or folder == "embedded"


def ends(word):
    """A sweep's `key=a,b,c` as `key=a,c`, of seeds only the first; other words unchanged."""
    key, _, values = word.partition("=")
    listed = re.split(r",(?![^\[]*\])", values)  # no comma within brackets
    if len(listed) < 2 or "(" in values:
        return word
    return f"seed={listed[0]}" if key == "seed" else f"{key}={listed[0]},{listed[-1]}"


def run(folder, *command):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_chain, draw_face):
    """A folder with the tiny chain's run in `elsewhere` instead of `runs`, and a photo."""
    folder = tmp_path_factory.mktemp("experiments")
    shutil.copytree(tiny_chain, folder / "elsewhere")
    (folder / "photos").mkdir()
    draw_face(0, 64).save(folder / "photos" / "a.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_sweep_runs(finished, script, tmp_path, monkeypatch):
    """The jobs with the first and the last value of each list, a few steps each, and their comparison."""
    monkeypatch.chdir(finished)
    one_process = ["hydra.launcher.n_jobs=1"] if script in JOBS else []
    for words in calls(script, tmp_path, *SMALL[script], *TINY, *one_process):
        with pytest.raises(SystemExit) as stop:
            main([ends(word) for word in words])
        assert stop.value.code == 0, words
    name = "diffcam_study" if script.endswith("study.sh") else script.partition("/")[0]
    jobs = list((finished / "elsewhere/sweeps" / name).glob("*/job.json"))
    assert len(jobs) == RUN[script]
    states = {json.loads(job.read_text())["state"] for job in jobs}
    assert states <= {"finished", "pruned"}
    table = (finished / "elsewhere/comparison" / name / "comparison.md").read_text().splitlines()
    measured = {"deghost_losses": ("val/psnr", "val/ssim"), "diffcam_layers": ("val/accuracy",)}
    assert all(column in table[0] for column in measured.get(name, ("diffcam.fit.lr",)))


@pytest.mark.slow
def test_the_strength_and_threshold_experiment_runs(finished):
    """Every method on one photo, with the tiny networks."""
    parts = {"inverter": "inversion", "diffcam": "diffcam", "deghoster": "deghost"}
    weights = [f"{part}.weights=elsewhere/tiny/{stage}/artifact" for part, stage in parts.items()]
    measures = ["metrics.metrics=[psnr]", "metrics.resolution=32", "probes=null", "judges=[]"]
    script = EXPERIMENTS / "strength_and_threshold/run.sh"
    run(finished, "env", "EDITS=sefa_01", "ROOT=scores", "sh", str(script), "photos", *TINY, *weights, *measures)
    table = (finished / "scores/table.md").read_text()
    assert "| plain@1.5 |" in table and "| mask_0.45@1 |" in table
