"""The two largest parts alone, ours and by the authors' operations on the same random weights, first call, 1024 px.

    python experiments/speed/parts.py [threads=1] [output=FOLDER]

A quarter of the seconds that `benchmark.py` takes, for machines that have little time. Every row is a process of its
own: processor seconds (user and system) of one call, peak memory of the process, and what it held before the call.
Results: `parts.json`, `parts.png`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def memory() -> float:
    """GB that this process has held at most so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def measure(part: str, way: str, result: Path, threads: int) -> dict[str, Any]:
    """One call; its output is stored at `result`, or compared with what is there."""
    import reference
    import torch

    from oodgan.deghost.network import Deghoster
    from oodgan.generators.stylegan2 import StyleGAN2

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    generator = StyleGAN2(1024, seed=2)
    if part == "decode":
        given = torch.randn(1, generator.num_ws, 512)
        call = {"ours": generator.synthesis, "authors": lambda codes: reference.synthesis(generator, codes)[0]}[way]
    else:
        network = Deghoster(generator).eval()
        given = torch.rand(1, 3, 128, 128) * 2 - 1
        call = {"ours": network, "authors": lambda coarse: reference.deghost(network, coarse)}[way]
    row: dict[str, Any] = {"part": part, "way": way, "threads": threads, "gb before": memory()}
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        image = call(given)
    row |= {"cpu": round(time.process_time() - cpu, 2), "wall": round(time.perf_counter() - wall, 2)}
    row["peak gb"] = memory()
    if result.exists():
        other = torch.load(result)
        row["largest difference / largest value"] = float(f"{(image - other).abs().max() / other.abs().max():.1e}")
    else:
        torch.save(image, result)
    return row


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Processor seconds and peak memory, the authors' operations beside ours."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    for axes, key, label in ((left, "cpu", "processor seconds"), (right, "peak gb", "peak memory, GB")):
        for shift, way in ((-0.2, "authors"), (0.2, "ours")):
            chosen = [row for row in rows if row["way"] == way]
            axes.bar([i + shift for i in range(len(chosen))], [row[key] for row in chosen], 0.4, label=way)
        axes.set_xticks(range(len(chosen)), [row["part"] for row in chosen])
        axes.set_ylabel(label)
    left.legend(frameon=False)
    figure.savefig(path, dpi=100)


def main(words: list[str]) -> None:
    """All four rows, ours before the authors' of each part; or one of them in this process."""
    import tempfile

    settings = dict(word.split("=", 1) for word in words)
    threads = settings.get("threads", "1")
    if "part" in settings:
        row = measure(settings["part"], settings["way"], Path(settings["result"]), int(threads))
        print(json.dumps(row))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for part in ("decode", "deghost"):
            for way in ("ours", "authors"):
                own = [f"part={part}", f"way={way}", f"result={folder}/{part}.pt", f"threads={threads}"]
                child = subprocess.run([sys.executable, __file__, *own], check=True, stdout=subprocess.PIPE, text=True)
                rows.append(json.loads(child.stdout.splitlines()[-1]))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    folder = Path(settings.get("output", HERE))
    (folder / "parts.json").write_text(json.dumps(rows, indent=1) + "\n")
    plot(rows, folder / "parts.png")


if __name__ == "__main__":
    main(sys.argv[1:])
