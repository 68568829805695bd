"""Time a step of each stage with one process and with two, one thread each.

`processes.py FACES MASKS [FOLDER [STAGE,STAGE...]]`, with a folder of photos and one of their parsing masks. The
global batch is the same, so two processes of an ideal machine need half the time. Each stage runs as its command. The
seconds of a training step are the median of Lightning's ThroughputMonitor, without the first three steps.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

MONITOR = (
    "+callbacks.throughput={_target_: pytorch_lightning.callbacks.ThroughputMonitor, window_size: 2, "
    "batch_size_fn: {_target_: hydra.utils.get_method, path: builtins.len}}"
)
STEPS = 12
DATA = ("data=folder", "data.source.root={faces}", "data.batch_size=4")
FIT = ("callbacks=none", MONITOR, "trainer.log_every_n_steps=1")


def trained(part: str, *more: str) -> tuple[str, ...]:
    """Arguments of a short training whose settings are in `part`, without validation before its end."""
    return (f"{part}.max_steps={STEPS}", f"{part}.val_every={STEPS}", f"{part}.limit_val=1", *FIT, *more)


FEATURES = ("inverter.fit.codes.max_steps=0", "inverter.fit.continue_from_weights=true")
STAGES: dict[str, tuple[str, ...]] = {
    "inversion (images)": (
        "inversion",
        "inverter=light",
        *DATA,
        *trained("inverter.fit.images", "inverter.fit.codes.max_steps=0", "inverter.fit.continue_from_weights=true"),
    ),
    "inversion (features)": ("inversion", *DATA, *trained("inverter.fit.features", *FEATURES)),
    "diffcam": (
        "diffcam",
        *trained("diffcam.fit", "diffcam.fit.pairs=64", "diffcam.fit.held_out=16", "diffcam.fit.region_codes=1"),
        "diffcam.fit.mask_quality.samples=0",
    ),
    "transfer": (
        "transfer",
        *DATA,
        *trained("transfer.fit", "transfer.samples.count=8", "transfer.samples.photos=0", "transfer.fit.held_out=0.25"),
    ),
    "parser": ("parser", *DATA, "+data.source.parsing={masks}", *trained("parser.fit")),
    "ghosts": ("ghosts", *DATA, "+data.source.parsing={masks}", "data.limit=16", "inverter.residual.exact=0"),
    "deghost": (
        "deghost",
        "deghoster.ghosts_from={root}/ghosts-1/a/ghosts/artifact",
        *trained("deghoster.fit", "deghoster.fit.held_out=0.25"),
    ),
}


def run(stage: str, root: Path, processes: int, words: list[str]) -> str:
    """Run a stage's command with this number of processes and return what it printed."""
    command = [sys.executable, "-m", "oodgan", stage, f"root={root}", "run=a", *words]
    command += ["trainer=cpu", f"devices={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stderr


def step(folder: Path) -> float:
    """Seconds of a training step, from the newest metrics.csv below `folder`."""
    newest = max(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    with newest.open() as lines:
        ends = [float(row["value"]) for row in csv.DictReader(lines) if row["name"] == "train/time"]
    return statistics.median(b - a for a, b in itertools.pairwise(ends[2:]))


def image(printed: str) -> float:
    """Seconds of an image of a stage that trains nothing, from the last line of its progress."""
    return 1 / float(re.findall(r"([\d.]+) images/s", printed)[-1])


def measure(root: Path, given: dict[str, str], chosen: list[str]) -> dict[str, dict[str, float]]:
    seconds: dict[str, dict[str, float]] = {}
    for name in chosen:
        stage, *words = (word if word == MONITOR else word.format(**given) for word in STAGES[name])
        timed = {}
        for processes in (1, 2):
            folder = root / f"{re.sub('[^a-z]+', '-', name).strip('-')}-{processes}"
            printed = run(stage, folder, processes, words)
            timed[str(processes)] = image(printed) if stage == "ghosts" else step(folder / "a" / stage)
        seconds[name] = {**timed, "ratio": timed["1"] / timed["2"]}
        print(f"| {name} | {timed['1']:.2f} s | {timed['2']:.2f} s | {seconds[name]['ratio']:.2f} |", flush=True)
    return seconds


def main() -> None:
    faces, masks, *rest = sys.argv[1:]
    root = Path(rest[0] if rest else "runs/scaling")
    chosen = rest[1].split(",") if len(rest) > 1 else list(STAGES)
    root.mkdir(parents=True, exist_ok=True)
    print("| stage | 1 process | 2 processes | ratio |\n|---|---|---|---|")
    measured = measure(root, {"faces": faces, "masks": masks, "root": str(root.resolve())}, chosen)
    (root / "processes.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
