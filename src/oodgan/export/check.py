"""Difference of an exported part from PyTorch, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodgan.export.formats import Run
from oodgan.export.parts import Part
from oodgan.reporting.tables import Table

Row = dict[str, Any]


@torch.no_grad()
def eager(part: Part, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the part's outputs in PyTorch."""
    outputs = part.network(*(inputs[name] for name in part.inputs))
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def difference(wanted: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Return the largest absolute difference over all outputs; infinite if one is not finite or has another shape."""
    errors = [
        float((a - b).abs().max()) if a.shape == b.shape and bool(b.isfinite().all()) else float("inf")
        for a, b in zip(wanted, actual, strict=True)
    ]
    return max(errors)


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Return the seconds of the fastest of `repeats` calls (least disturbed by other processes), after a warm-up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(part: Part, run: Run, inputs: Mapping[str, Tensor], repeats: int) -> dict[str, float]:
    """Seconds of one call of an exported part, and its largest `error` against PyTorch."""
    given = [inputs[name] for name in part.inputs]
    return {"seconds": fastest(lambda: run(given), repeats), "error": difference(eager(part, inputs), run(given))}


def size_of(path: Path) -> float:
    """Return the megabytes of a part's file, including its weights file."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6


def markdown(rows: Sequence[Row], formats: Sequence[str], caption: str) -> str:
    """A table of `rows`: {"part", "takes", "gives", "eager", and for each format {"seconds", "error", "megabytes"}}."""
    head = ["part", "takes", "gives", "eager, s"]
    for format in formats:
        head += [f"{format}, s", "faster", "largest error", "MB"]
    lines = []
    for row in rows:
        cells = [row["part"], row["takes"], row["gives"], f"{row['eager']:.3f}"]
        for format in formats:
            one = row[format]
            cells += [f"{one['seconds']:.3f}", f"{row['eager'] / one['seconds']:.1f}x"]
            cells += [f"{one['error']:.1e}", f"{one['megabytes']:.1f}"]
        lines.append(cells)
    return Table(head, lines, numbers=range(3, len(head))).markdown() + f"\n{caption}\n"
