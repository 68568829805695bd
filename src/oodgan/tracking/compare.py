"""Comparison of runs: differing settings, final metrics, and the best run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oodgan.reporting.tables import Table, lower_is_better
from oodgan.tracking.runs import Run

SEED = "seed"
# Paths and the way a run was executed are not compared.
_ASIDE = ("folder", "run", "root", "sweep", "resume", "replace", "output", "gpu_slots")
_ASIDE_GROUPS = ("logger.", "callbacks.", "hydra.", "trainer.devices", "trainer.accelerator")


@dataclass
class Row:
    """Runs that differ only in the seed, and for each metric (mean, deviation or None, count)."""

    name: str
    runs: list[Run]
    settings: dict[str, Any]
    metrics: dict[str, tuple[float, float | None, int]]


@dataclass
class Comparison:
    """Rows, the config keys that differ between them, the metrics, and the best row's index for each metric."""

    rows: list[Row]
    keys: list[str]
    metrics: list[str]
    best: dict[str, int]

    @property
    def header(self) -> list[str]:
        return ["run", "seeds", *self.keys, *self.metrics]

    def cells(self, row: Row) -> list[str]:
        """Return the row as text: settings, then `mean` or `mean ± deviation`."""
        values = [_text(row.settings.get(key)) for key in self.keys]
        return [row.name, str(len(row.runs)), *values, *(number(row.metrics.get(m)) for m in self.metrics)]

    def table(self) -> Table:
        """Return the comparison as a table; with several rows, the best value of each metric is marked."""
        first = len(self.header) - len(self.metrics)
        best = {(row, first + self.metrics.index(name)) for name, row in self.best.items() if len(self.rows) > 1}
        numbers = range(first, len(self.header))
        return Table(self.header, [self.cells(row) for row in self.rows], best, numbers)


def compare(runs: Sequence[Run], metrics: Sequence[str] | None = None, maximize: Sequence[str] = ()) -> Comparison:
    """Compare runs; `metrics` restricts the columns, `maximize` names metrics whose larger value is better."""
    keys = differing(runs)
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(_text(run.config.get(k)) for k in keys), []).append(run)
    rows = [_row(members, keys) for members in groups.values()]
    names = list(metrics) if metrics else sorted({m for row in rows for m in row.metrics})
    best: dict[str, int] = {}
    for name in names:
        means = [(row.metrics[name][0], i) for i, row in enumerate(rows) if name in row.metrics]
        means = [(value, i) for value, i in means if value == value]
        lower = False if name in maximize else lower_is_better(name)
        if means and lower is not None:
            best[name] = (min(means) if lower else max(means))[1]
    return Comparison(rows, keys, names, best)


def differing(runs: Sequence[Run]) -> list[str]:
    """Return config keys whose values differ between runs, except seed and paths."""
    keys = {key for run in runs for key in run.config}
    different = []
    for key in sorted(keys):
        last = key.rpartition(".")[2]
        if key in _ASIDE or key.startswith(_ASIDE_GROUPS) or last == SEED:
            continue
        if len({_text(run.config.get(key)) for run in runs}) > 1:
            different.append(key)
    # A fit's folder repeats the part's own `fit` settings under `fit`.
    return [k for k in different if not (k.startswith("fit.") and any(o.endswith("." + k) for o in different))]


def _row(members: list[Run], keys: list[str]) -> Row:
    values: dict[str, list[float]] = {}
    for run in members:
        for name, value in run.metrics.items():
            values.setdefault(name, []).append(value)
    metrics = {
        name: (statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else None, len(v)) for name, v in values.items()
    }
    first = members[0]
    name = first.name if first.state == "finished" else f"{first.name} [{first.state}]"
    return Row(name, members, {k: first.config.get(k) for k in keys}, metrics)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def number(statistics: tuple[float, float | None, int] | None) -> str:
    """`mean` or `mean ± deviation` with four digits, "" for nothing.

    >>> number((0.123456, None, 1)), number((0.5, 0.01, 3)), number(None)
    ('0.1235', '0.5 ± 0.01', '')
    """
    if statistics is None:
        return ""
    mean, deviation, _ = statistics
    return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"


def to_csv(comparison: Comparison) -> str:
    """The table as CSV with full precision: for each metric its mean and standard deviation."""
    columns = [name for metric in comparison.metrics for name in (metric, f"{metric} (std)")]
    rows = []
    for row in comparison.rows:
        values: list[str] = []
        for metric in comparison.metrics:
            mean, deviation, _ = row.metrics.get(metric, (None, None, 0))
            values += ["" if mean is None else repr(mean), "" if deviation is None else repr(deviation)]
        rows.append([row.name, str(len(row.runs)), *(_text(row.settings.get(k)) for k in comparison.keys), *values])
    return Table(["run", "seeds", *comparison.keys, *columns], rows).csv()
