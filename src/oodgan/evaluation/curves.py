"""Likeness at equal change: identity and LPIPS of each method at equally strong edits.

A method that hardly edits is close to the photo for that reason alone. So every method is measured at several
strengths, which gives a curve of likeness over the attribute's change, and methods are compared at the same change.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oodgan.evaluation.intervals import bootstrap, digits, draws, interval, number
from oodgan.evaluation.judges import JUDGES
from oodgan.evaluation.methods import INVERSION
from oodgan.reporting.tables import Table, lower_is_better

if TYPE_CHECKING:
    from oodgan.evaluation.protocol import Protocol
    from oodgan.evaluation.score import Job

Floats = NDArray[np.float64]
LIKENESS = ("identity", "lpips")
"""Beginnings of the names of the metrics that are read at equal change."""


@dataclass(frozen=True)
class Curve:
    """One method's edits of one attribute, sorted by strength.

    Attributes:
        strengths: (S,) factors of the edit.
        change: (photos, S) of the attribute, result minus photo, in the probe's unit.
        likeness: metric -> (photos, S).
    """

    strengths: Sequence[float]
    change: Floats
    likeness: Mapping[str, Floats]


def curves(job: Job, table: Floats, at: Mapping[str, float]) -> dict[str, dict[str, Curve]]:
    """Return {attribute: {method: curve}} of scores (photos, rows, metrics), without the inversion, which is no edit.

    A judge (`oodgan.evaluation.judges`) has curves only if `at` contains it. There are none without a metric of
    likeness.
    """
    names = job.columns
    metrics = [name for name in names if name.startswith(LIKENESS)]
    if not metrics:
        return {}
    rows: dict[str, list[tuple[float, int]]] = {}
    for m, row in enumerate(job.methods):
        variant = job.variant(row)
        if variant.source != INVERSION and variant.method != INVERSION:
            rows.setdefault(variant.method, []).append((variant.strength, m))
    by_attribute: dict[str, dict[str, Curve]] = {}
    for attribute, version, _ in job.probes:
        if attribute in JUDGES and attribute not in at:
            continue
        change = names.index(f"change_{attribute}_{version}")
        by_attribute[attribute] = {}
        for method, places in rows.items():
            strengths, indices = zip(*sorted(places), strict=True)
            part = table[:, list(indices)]
            likeness = {metric: part[:, :, names.index(metric)] for metric in metrics}
            by_attribute[attribute][method] = Curve(strengths, part[:, :, change], likeness)
    return by_attribute


def interpolate(change: Floats, value: Floats, at: float) -> Floats:
    """Interpolate D curves (D, S) linearly at the first strength where the change reaches `at`; returns (D,).

    A curve that is above `at` at its weakest strength has the value of that strength; one that does not reach `at` is
    nan.
    """
    values = np.where(change[:, 0] > at, value[:, 0], np.nan)
    for s in range(change.shape[1] - 1):
        low, high = change[:, s], change[:, s + 1]
        crosses = np.isnan(values) & (low <= at) & (high >= at)
        step = np.where(high > low, (at - low) / np.where(high > low, high - low, 1), 0)
        values = np.where(crosses, value[:, s] + step * (value[:, s + 1] - value[:, s]), values)
    if change.shape[1] == 1:
        values = np.where(change[:, 0] == at, value[:, 0], values)
    return values


def likeness_at(curve: Curve, metric: str, at: float, protocol: Protocol) -> dict[str, Any]:
    """Return a metric at the strength where the mean change over photos is `at`, with its bootstrap interval.

    Returns:
        `mean`, `low`, `high`, `count`, and `reached`, the fraction of bootstrap draws that reach this change. Other
        draws count as worse than all of these; an end of the interval that falls on them is None. If the curve does not
        reach this change or starts above it, there is `why` instead of `mean`.
    """
    change, value = curve.change, curve.likeness[metric]
    known = ~(np.isnan(change).any(1) | np.isnan(value).any(1))
    change, value = change[known], value[known]
    entry: dict[str, Any] = {"count": len(change)}
    if not len(change):
        return entry | {"why": "n/a"}
    first = change.mean(0)[0]
    mean = float(interpolate(change.mean(0)[None], value.mean(0)[None], at)[0])
    if np.isnan(mean):
        return entry | {"why": "not reached"}
    if first > at:
        return entry | {"why": f"{first:+.2f} already at strength {curve.strengths[0]:g}"}
    drawn = draws(len(change), protocol.bootstrap_samples, protocol.seed)
    every = interpolate(change[drawn].mean(1), value[drawn].mean(1), at)
    entry |= {"mean": mean, "reached": float((~np.isnan(every)).mean())}
    worst = np.inf if lower_is_better(metric) else -np.inf
    ends = interval(np.where(np.isnan(every), worst, every), protocol.bootstrap_level, method="nearest")
    return entry | {name: end if np.isfinite(end) else None for name, end in zip(("low", "high"), ends, strict=True)}


def equal_change(job: Job, table: Floats, at: Mapping[str, float]) -> dict[str, Any]:
    """Return {attribute: {at, methods: {method: {points, likeness}}}} as plain values.

    A point has the means and intervals of change and likeness at one strength. `likeness` is {metric: `likeness_at`}
    for attributes in `at`.
    """
    result: dict[str, Any] = {}
    for attribute, methods in curves(job, table, at).items():
        result[attribute] = {"at": at.get(attribute), "methods": {}}
        for method, curve in methods.items():
            entry: dict[str, Any] = {"points": _points(curve, job.protocol)}
            if attribute in at:
                metrics = {name: likeness_at(curve, name, at[attribute], job.protocol) for name in curve.likeness}
                entry["likeness"] = metrics
            result[attribute]["methods"][method] = entry
    return result


def _points(curve: Curve, protocol: Protocol) -> list[dict[str, Any]]:
    points = []
    for s, strength in enumerate(curve.strengths):
        point: dict[str, Any] = {"strength": strength}
        for name, values in {"change": curve.change, **curve.likeness}.items():
            known = values[:, s][~np.isnan(values[:, s])]
            if len(known):
                ends = bootstrap(known, protocol.bootstrap_samples, protocol.bootstrap_level, protocol.seed)
                point[name] = {"mean": float(known.mean()), "low": ends[0], "high": ends[1], "count": len(known)}
        points.append(point)
    return points


def to_table(equal: Mapping[str, Any]) -> Table:
    """One row per attribute and method: the likeness at the attribute's change, the best of those that reach it marked.

    Args:
        equal: what `equal_change` returned.
    """
    rows: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    metrics = _metrics(equal)
    for attribute, held in equal.items():
        if held["at"] is None:
            continue
        start, methods = len(rows), held["methods"]
        for method, entry in methods.items():
            cells = [cell(entry["likeness"].get(metric)) for metric in metrics]
            rows.append([attribute, f"{held['at']:+g}", method, *cells])
        for column, metric in enumerate(metrics, 3):
            means = {m: e["likeness"].get(metric, {}).get("mean") for m, e in methods.items()}
            there = {m: mean for m, mean in means.items() if mean is not None}
            if len(methods) > 1 and there:
                winner = (min if lower_is_better(metric) else max)(there, key=there.__getitem__)
                best.add((start + list(methods).index(winner), column))
    header = ["attribute", "change", "method", *(f"{m} {'↓' if lower_is_better(m) else '↑'}" for m in metrics)]
    return Table(header, rows, best, range(3, len(header)))


def cell(entry: Mapping[str, Any] | None) -> str:
    """A likeness in a table.

    >>> cell({"mean": 0.731, "low": None, "high": 0.78})
    '0.731 [not reached, 0.780]'
    >>> cell({"why": "not reached"})
    'not reached'
    """
    if not entry or "mean" not in entry:
        return entry["why"] if entry else "n/a"
    if entry["low"] is not None and entry["high"] is not None:
        return number(entry)
    ends = ("not reached" if entry[end] is None else digits(entry[end]) for end in ("low", "high"))
    return f"{digits(entry['mean'])} [{', '.join(ends)}]"


def _metrics(equal: Mapping[str, Any]) -> list[str]:
    points = [p for held in equal.values() for e in held["methods"].values() for p in e["points"]]
    return [name for name in dict.fromkeys(key for p in points for key in p) if name.startswith(LIKENESS)]


def draw(equal: Mapping[str, Any]) -> bytes:
    """Draw a PNG with a chart per metric (rows) and attribute: likeness over change, a line per method, with intervals.

    Args:
        equal: what `equal_change` returned, not empty.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    metrics = _metrics(equal)
    size = (3.4 * len(equal) + 1.6, 3.0 * len(metrics) + 0.4)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(len(metrics), len(equal), squeeze=False)
    for row, metric in zip(grid, metrics, strict=True):
        for axes, (attribute, held) in zip(row, equal.items(), strict=True):
            colours = colormaps["tab10" if len(held["methods"]) <= 10 else "tab20"]
            axes.set_prop_cycle(color=[colours(i) for i in range(len(held["methods"]))])
            for method, entry in held["methods"].items():
                _line(axes, method, [p for p in entry["points"] if metric in p and "change" in p], metric)
            if held["at"] is not None:
                axes.axvline(held["at"], color="#6b7078", linewidth=0.8, linestyle=":")
            unit = JUDGES[attribute].unit if attribute in JUDGES else "standard deviations"
            axes.set_xlabel(f"change of {attribute}, {unit}", fontsize=8)
            axes.set_title(f"{metric} {'↓' if lower_is_better(metric) else '↑'}", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _line(axes: Any, method: str, points: Sequence[Mapping[str, Any]], metric: str) -> None:
    means = {name: np.array([p[name]["mean"] for p in points]) for name in ("change", metric)}
    ends = {
        name: np.abs(np.array([[p[name][end] for p in points] for end in ("low", "high")]) - means[name])
        for name in means
    }
    axes.errorbar(
        means["change"], means[metric], xerr=ends["change"], yerr=ends[metric], label=method,
        marker="o", markersize=4, linewidth=1.6, elinewidth=0.7, alpha=0.9,
    )  # fmt: skip
