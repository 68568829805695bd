"""Seconds and memory of one edit, and of several, of one photo by the paper's architecture with random weights.

    python experiments/speed/benchmark.py [size=1024] [edits=1,7] [repeats=3] [warmup=1] [device=cpu] [output=FOLDER]

Each number of edits runs in a process of its own, so that its peak memory is its own.
Results: `results.json`, `parts.png`.
"""

from __future__ import annotations

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
# The authors' implementation, one edit of one photo at 1024 px, 2 cores: measured before this project began.
REFERENCE = {"encode": 1.1, "decode inverted": 6.3, "decode edited": 5.5, "mask": 1.0, "deghost": 13.0}
REFERENCE_TOTAL, REFERENCE_GB = 26.6, 5.9
DEFAULTS = {"size": "1024", "edits": "1,7", "repeats": "3", "warmup": "1", "device": "cpu", "output": str(HERE)}


def build(size: int, edits: int, device: str) -> Any:
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
    names = [f"direction {i}" for i in range(max(edits, 1))]
    bank = Bank(tuple(names), torch.randn(len(names), generator.num_ws, 512) * 0.2, generator.id, generator.id)
    masker = Masker(DiffCAM("resnet101", 17), [*names, *map(str, range(17 - len(names)))], size=256, kind="paper")
    remover = Remover(Deghoster(StyleGAN2(size, seed=2), in_size=min(128, size // 2)), paste=False)
    return Editor(generator, EncoderInverter(generator, encoder), bank, masker, remover, {"mode": "paper"}, device)


def once(editor: Any, photo: Any, wait: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Edit the photo along every direction of the bank; seconds on the wall and of the processors, by part."""
    import torch

    parts: dict[str, dict[str, float]] = {}

    def timed(part: str, make: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            made = make()
        wait()
        spent = parts.setdefault(part, {"wall": 0.0, "cpu": 0.0})
        spent["wall"] += time.perf_counter() - wall
        spent["cpu"] += time.process_time() - cpu
        return made

    code = timed("encode", lambda: editor.inverter.invert(photo))
    inverted = timed("decode inverted", lambda: editor.generator.synthesis(code).clamp(-1, 1))
    for name in editor.names:
        edit = {name: 1.0}
        edited = timed("decode edited", lambda edit=edit: editor.change(code, edit))
        mask = timed("mask", lambda edited=edited, edit=edit: editor.mask(photo, inverted, edited, edit))
        coarse = timed("compose", lambda e=edited, m=mask: editor.compose(photo, inverted, e, m))
        moved = editor.bank.apply(code, edit)
        arguments = (photo, inverted, edited, mask, coarse, moved)
        timed("deghost", lambda arguments=arguments: editor.deghost(*arguments))
    parts["total"] = {kind: sum(part[kind] for part in parts.values()) for kind in ("wall", "cpu")}
    return parts


def work(settings: dict[str, str]) -> dict[str, Any]:
    """What the child process does: build, warm up, measure; medians over the repeats."""
    import torch

    size, edits, device = int(settings["size"]), int(settings["edits"]), settings["device"]
    editor = build(size, edits, device)
    photo = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(int(settings["warmup"])):
        once(editor, photo, wait)
    runs = [once(editor, photo, wait) for _ in range(int(settings["repeats"]))]
    found: dict[str, Any] = {"edits": edits, "load": round(os.getloadavg()[0], 1), "threads": torch.get_num_threads()}
    for kind in ("wall", "cpu"):
        found[kind] = {part: round(statistics.median(run[part][kind] for run in runs), 3) for part in runs[0]}
    found["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    if device == "cuda":
        found["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    import torch

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    processor = model or platform.processor()
    return {"processor": processor, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Times as fast as the reference; its several edits are as many single ones, as it keeps nothing between them."""
    found = {}
    for run in measured:
        reference, alone = REFERENCE_TOTAL * run["edits"], run["threads"] == 1
        found[f"{run['edits']} edits" if run["edits"] > 1 else "1 edit"] = {
            "by wall clock": round(reference / run["wall"]["total"], 2),
            # The reference had 2 cores: one thread's processor seconds against its wall clock is a lower bound.
            **({"by one thread's processor seconds": round(reference / run["cpu"]["total"], 2)} if alone else {}),
            "memory": round(run["peak_gb"] / REFERENCE_GB, 2),
        }
    return found


def plot(measured: list[dict[str, Any]], path: Path) -> None:
    """Stacked parts for one edit, the reference beside ours."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns: dict[str, dict[str, float]] = {"authors, each edit": REFERENCE}
    for run in measured:
        parts = {part: seconds / run["edits"] for part, seconds in run["wall"].items() if part != "total"}
        columns[f"ours, {run['edits']} edit{'s' * (run['edits'] > 1)}, each"] = parts
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    bottom = [0.0] * len(columns)
    for part in (*REFERENCE, "compose"):
        heights = [parts.get(part, 0.0) for parts in columns.values()]
        axes.bar(list(columns), heights, bottom=bottom, label=part)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axes.set_ylabel("seconds for one edit (wall clock)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(words: list[str]) -> None:
    """Measure each number of edits in its own process, then write results and plot."""
    settings = {**DEFAULTS, **dict(word.split("=", 1) for word in words if "=" in word)}
    if unknown := settings.keys() - DEFAULTS.keys() - {"note"}:
        raise SystemExit(f"error: unknown setting {min(unknown)}; known: {', '.join(DEFAULTS)}, note")
    if "--work" in words:
        print(json.dumps(work(settings)))
        return
    measured = []
    for edits in settings["edits"].split(","):
        own = [f"{key}={value}" for key, value in {**settings, "edits": edits}.items()]
        print(f"{edits} edit(s) at {settings['size']} px ...", file=sys.stderr, flush=True)
        child = subprocess.run([sys.executable, __file__, "--work", *own], check=True, capture_output=True, text=True)
        measured.append(json.loads(child.stdout.splitlines()[-1]))
        print(json.dumps(measured[-1]), file=sys.stderr, flush=True)
    result = {
        "machine": machine(),
        "settings": {key: settings[key] for key in ("size", "repeats", "warmup", "device")},
        "note": settings.get("note", ""),
        "reference": {"parts": REFERENCE, "total": REFERENCE_TOTAL, "peak_gb": REFERENCE_GB},
        "measured": measured,
    }
    if settings["size"] == "1024" and settings["device"] == "cpu":
        result["times as fast as the authors"] = ratios(measured)
    folder = Path(settings["output"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(measured, folder / "parts.png")


if __name__ == "__main__":
    main(sys.argv[1:])
