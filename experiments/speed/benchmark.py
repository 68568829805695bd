"""Seconds and memory of one edit, and of several, of one photo by the paper's architecture with random weights.

    python experiments/speed/benchmark.py [size=256,512,1024] [edits=1,7] [also=bf16] [repeats=3] [warmup=1]
        [device=cpu] [threads=] [output=FOLDER] [note=WORDS]

Every way runs in a process of its own, so that its peak memory is its own: our editor, the authors' operations
(`reference.py`) on the same weights, and, at the largest size, what `also` names (`bf16`, `compile`). Several numbers
of edits are read off one run: what had been spent after so many.
Results: `results.json`, `edits.png`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The authors' own code, one edit of one photo at 1024 px, 2 cores: measured before this project began.
PUBLISHED = {"encode": 1.1, "decode inverted": 6.3, "decode edited": 5.5, "mask": 1.0, "deghost": 13.0}
PUBLISHED_TOTAL, PUBLISHED_GB = 26.6, 5.9
DEFAULTS = {
    "size": "256,512,1024",
    "edits": "1,7",
    "also": "bf16",
    "repeats": "3",
    "warmup": "1",
    "device": "cpu",
    "threads": "",
    "output": str(HERE),
    "note": "",
}
Run = dict[str, dict[str, float]]


def build(size: int, device: str) -> Any:
    """The paper's editor: StyleGAN2, pSp, Diff-CAM (17 classes), deghoster 128 -> size with a StyleGAN2 of its own."""
    import torch

    from oodgan.deghost.network import Deghoster
    from oodgan.deghost.remover import Remover
    from oodgan.diffcam.masks import Masker
    from oodgan.diffcam.network import DiffCAM
    from oodgan.directions.bank import Bank
    from oodgan.editing import Editor
    from oodgan.generators.stylegan2 import StyleGAN2
    from oodgan.inversion.e4e import PublicEncoder
    from oodgan.inversion.inverter import EncoderInverter

    torch.manual_seed(0)
    generator = StyleGAN2(size, seed=1).requires_grad_(False)
    encoder = PublicEncoder(generator.num_ws)
    encoder.bind(generator)
    names = [f"direction {i}" for i in range(17)]
    bank = Bank(tuple(names), torch.randn(len(names), generator.num_ws, 512) * 0.2, generator.id, generator.id)
    masker = Masker(DiffCAM("resnet101", 17), names, size=256, kind="paper")
    remover = Remover(Deghoster(StyleGAN2(size, seed=2), in_size=min(128, size // 2)), paste=False)
    return Editor(generator, EncoderInverter(generator, encoder), bank, masker, remover, {"mode": "paper"}, device)


class Timer:
    """Runs parts and adds up their seconds: on the wall, and of the process's processors (user and system)."""

    def __init__(self, device: str, precision: str) -> None:
        self.parts: Run = {}
        self.device, self.precision = device, precision

    def __call__(self, part: str, make: Callable[[], Any]) -> Any:
        import torch

        half = torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad(), half:
            made = make().float()
        if self.device == "cuda":
            torch.cuda.synchronize()
        spent = self.parts.setdefault(part, {"wall": 0.0, "cpu": 0.0})
        spent["wall"] += time.perf_counter() - wall
        spent["cpu"] += time.process_time() - cpu
        return made

    def total(self) -> Run:
        """The parts and their sum."""
        whole = {unit: sum(part[unit] for part in self.parts.values()) for unit in ("wall", "cpu")}
        return {**{part: dict(spent) for part, spent in self.parts.items()}, "total": whole}


def ours(editor: Any, photo: Any, edits: int, timed: Timer, done: Callable[[int], None] = lambda n: None) -> Any:
    """Edit the photo along the first directions by the editor's steps, `done(n)` after each; the first result."""
    code = timed("encode", lambda: editor.inverter.invert(photo))
    inverted = timed("decode inverted", lambda: editor.generator.synthesis(code).clamp(-1, 1))
    first = None
    for n, name in enumerate(editor.names[:edits], start=1):
        edit = {name: 1.0}
        edited = timed("decode edited", lambda edit=edit: editor.change(code, edit))
        mask = timed("mask", lambda edited=edited, edit=edit: editor.mask(photo, inverted, edited, edit))
        coarse = timed("compose", lambda e=edited, m=mask: editor.compose(photo, inverted, e, m))
        moved = editor.bank.apply(code, edit)
        arguments = (photo, inverted, edited, mask, coarse, moved)
        result = timed("deghost", lambda arguments=arguments: editor.deghost(*arguments))
        first = result if first is None else first
        done(n)
    return first


def work(case: dict[str, str]) -> list[dict[str, Any]]:
    """What the child process does: build, warm up, measure; medians over the repeats for each number of edits."""
    import torch

    if case["threads"]:
        torch.set_num_threads(int(case["threads"]))
    size, device, kind = int(case["size"]), case["device"], case["kind"]
    edits = [int(n) for n in case["edits"].split(",")]
    editor = build(size, device)
    photo = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    if kind == "compile":
        editor.generator.synthesis = torch.compile(editor.generator.synthesis)
        editor.remover.network.forward = torch.compile(editor.remover.network.forward)
    spent: dict[int, list[Run]] = {n: [] for n in edits}
    peaks: dict[int, dict[str, float]] = {}

    def once(limit: int, keep: bool) -> Any:
        timer = Timer(device, kind)

        def done(n: int) -> None:
            if n in spent and keep:
                spent[n].append(timer.total())
                peaks.setdefault(n, peak(device))

        if kind == "authors":
            from reference import Authors

            result = Authors(editor).edit(photo, editor.names[0], timer)
            done(1)
            return result
        return ours(editor, photo, limit, timer, done)

    for _ in range(int(case["warmup"])):
        once(1, False)
    result = [once(max(edits), True) for _ in range(int(case["repeats"]))][-1]
    about = {"kind": kind, "size": size, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    rows = [{**about, "edits": n, **medians(spent[n]), **peaks[n]} for n in edits]
    if kind != "ours":
        rows[0]["difference"] = difference(result, ours(editor, photo, 1, Timer(device, "float32")))
    return rows


def medians(runs: list[Run]) -> dict[str, Run]:
    """Seconds of each part by unit."""
    return {
        unit: {part: round(statistics.median(run[part][unit] for run in runs), 3) for part in runs[0]}
        for unit in ("wall", "cpu")
    }


def peak(device: str) -> dict[str, float]:
    """The most memory that this process has held so far, in GB."""
    import torch

    peaks = {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)}
    if device == "cuda":
        peaks["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peaks


def difference(result: Any, reference: Any) -> dict[str, float]:
    """Return the difference of a result from the one in float32, both in [-1, 1]."""
    gap = (result - reference).abs()
    return {
        "largest": float(f"{gap.max():.2g}"),
        "mean": float(f"{gap.mean():.2g}"),
        "spread of the result": float(f"{reference.std():.2g}"),
    }


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    import torch

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    processor = model or platform.processor()
    return {"processor": processor, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def ratios(measured: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """Times as fast as the authors' operations, which keep nothing between edits, in the same run; and as published."""
    rows: dict[str, Any] = {}
    for run in measured:
        if run["kind"] == "authors":
            continue
        other = next((r for r in measured if r["kind"] == "authors" and r["size"] == run["size"]), None)
        row: dict[str, float] = {}
        if other:
            for unit in ("wall", "cpu"):
                row[unit] = round(other[unit]["total"] * run["edits"] / run[unit]["total"], 2)
            row["memory"] = round(run["peak_gb"] / other["peak_gb"], 2)
        if run["size"] == 1024 and device == "cpu":
            row["published seconds / wall"] = round(PUBLISHED_TOTAL * run["edits"] / run["wall"]["total"], 2)
            if run["threads"] == 1:  # the published seconds are of two cores: a lower bound
                row["published seconds / one thread's cpu"] = round(
                    PUBLISHED_TOTAL * run["edits"] / run["cpu"]["total"], 2
                )
            row["memory / published"] = round(run["peak_gb"] / PUBLISHED_GB, 2)
        rows[f"{run['kind']}, {run['size']} px, {run['edits']} edit{'s' * (run['edits'] > 1)}"] = row
    return rows


def plot(measured: list[dict[str, Any]], path: Path) -> None:
    """Stacked parts of one edit at the largest size, as published (wall) and as measured (processor seconds)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    largest = max(run["size"] for run in measured)
    columns: dict[str, dict[str, float]] = {}
    if largest == 1024:
        columns["published,\nseconds x 2 cores"] = {part: 2 * seconds for part, seconds in PUBLISHED.items()}
    for run in sorted((r for r in measured if r["size"] == largest), key=lambda r: r["kind"] != "authors"):
        label = "authors' operations" if run["kind"] == "authors" else run["kind"]
        parts = {part: seconds / run["edits"] for part, seconds in run["cpu"].items() if part != "total"}
        columns[f"{label},\n{run['edits']} edit{'s' * (run['edits'] > 1)}"] = parts
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    bottom = [0.0] * len(columns)
    for part in (*PUBLISHED, "compose"):
        heights = [parts.get(part, 0.0) for parts in columns.values()]
        axes.bar(list(columns), heights, bottom=bottom, label=part)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axes.set_ylabel(f"processor seconds for each edit, {largest} px")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def main(words: list[str]) -> None:
    """Measure each case in its own process, then write results and plot."""
    settings = {**DEFAULTS, **dict(word.split("=", 1) for word in words if "=" in word)}
    if unknown := settings.keys() - DEFAULTS.keys() - {"kind"}:
        raise SystemExit(f"error: unknown setting {min(unknown)}; known: {', '.join(DEFAULTS)}")
    if "--work" in words:
        print(json.dumps(work(settings)))
        return
    sizes = settings["size"].split(",")
    cases = [case for size in sizes for case in (("authors", size, "1"), ("ours", size, settings["edits"]))]
    cases += [(kind, max(sizes, key=int), "1") for kind in settings["also"].split(",") if kind]
    measured = []
    for kind, size, edits in cases:
        own = [f"{key}={value}" for key, value in {**settings, "kind": kind, "size": size, "edits": edits}.items()]
        print(f"{kind}: {edits} edit(s) at {size} px ...", file=sys.stderr, flush=True)
        child = subprocess.run([sys.executable, __file__, "--work", *own], stdout=subprocess.PIPE, text=True)
        if child.returncode and kind not in settings["also"].split(","):
            raise SystemExit(f"error: {kind} at {size} px ended with {child.returncode}")
        if child.returncode:
            print(f"{kind} at {size} px ended with {child.returncode}: left out", file=sys.stderr, flush=True)
            continue
        rows = json.loads(child.stdout.splitlines()[-1])
        print(json.dumps(rows), file=sys.stderr, flush=True)
        measured += rows
    result = {
        "machine": machine(),
        "settings": {key: settings[key] for key in ("repeats", "warmup", "device")},
        "note": settings["note"],
        "published": {"parts": PUBLISHED, "total": PUBLISHED_TOTAL, "peak_gb": PUBLISHED_GB},
        "measured": measured,
        "times as fast as the authors' operations": ratios(measured, settings["device"]),
    }
    folder = Path(settings["output"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(measured, folder / "edits.png")


if __name__ == "__main__":
    main(sys.argv[1:])
