"""The training commands of the README run exactly as printed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import oodgan  # noqa: F401
from oodgan.cli import main

README = Path(__file__).parents[2] / "README.md"


def commands():
    """Returns the words of each command in the README's section on processes, resumed runs and sweeps."""
    section = README.read_text(encoding="utf-8").partition("## Several processes, resumed runs, sweeps")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.group(1).splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder `runs` after all commands, and the output of the last one. Commands that start no other processes, or
    start them by themselves, run in this process, which has imported everything already."""
    place, shown = tmp_path_factory.mktemp("readme"), ""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for first, *words in commands():
            assert first == "oodgan"
            if words[0] == "compare" or "hydra=joblib" in words:
                shown = in_a_new_process(place, words)
                continue
            with pytest.raises(SystemExit) as stop:
                main(words)
            assert stop.value.code == 0, words
    return place / "runs", shown


def in_a_new_process(place, words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}  # wide enough for the whole table
    command = [sys.executable, "-m", "oodgan", *words]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return done.stdout


def checkpoint(folder):
    from oodgan.training import checkpoints

    return checkpoints.load(checkpoints.find(folder))


@pytest.mark.slow
def test_readme_commands_of_two_processes_and_a_resumed_run_work(runs):
    folder, _ = runs
    first, longer = checkpoint(folder / "two/diffcam"), checkpoint(folder / "longer/diffcam")
    assert (first["global_step"], longer["global_step"]) == (8, 16)
    assert longer["position"]["batches"] == 2 * first["position"]["batches"]
    (curve,) = (folder / "longer/diffcam").glob("training/*/metrics.csv")
    steps = [int(line.partition(",")[0]) for line in curve.read_text().splitlines()[1:]]
    assert min(steps) < 8 < max(steps)  # the curve includes the first run
    for run in ("two", "longer"):
        assert (folder / run / "diffcam/artifact/manifest.json").is_file()


@pytest.mark.slow
def test_readme_commands_of_sweeps_and_their_comparison_work(runs):
    folder, shown = runs
    for name, count in (("rates", 4), ("study", 6)):
        states = [json.loads(p.read_text())["state"] for p in (folder / "sweeps" / name).glob("*/job.json")]
        assert len(states) == count and set(states) <= {"finished", "pruned"}
        identities = [json.loads(p.read_text()) for p in (folder / "sweeps" / name).glob("*/training/*/run.json")]
        assert len({i["id"] for i in identities}) == count and {i["group"] for i in identities} == {name}
    assert "diffcam.fit.lr" in shown
    page = (folder / "comparison/comparison.html").read_text()
    assert "±" in page and "data:image/png;base64," in page
