"""Bootstrap intervals over photos, their formatting, and the definition of the share of an edit that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def draws(count: int, samples: int, seed: int) -> NDArray[np.int64]:
    """Indices (samples, count) of `samples` draws of `count` photos with replacement."""
    return np.random.default_rng(seed).integers(0, count, (samples, count))


def bootstrap(values: Floats, samples: int, level: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (n,): the mean of n draws with replacement, `samples` times.

    >>> low, high = bootstrap(np.arange(100.0), 500, 0.95, seed=0)
    >>> 41 < low < 46 < 53 < high < 58
    True
    """
    return interval(values[draws(len(values), samples, seed)].mean(1), level)


def edit_kept(done: Floats, wanted: Floats, samples: int, level: float, seed: int) -> dict[str, Any]:
    """Return the share of an edit that a method's results keep: (result - photo) / (edited - inverted).

    The edited image is compared with the inverted one and not with the photo, because changes of the attribute by the
    inversion are not part of the edit.

    Args:
        done: score of the result minus score of the photo, (n,), nan where there is none.
        wanted: score of the plain edit G(w + edit) minus score of the inversion G(w), (n,), likewise.

    Returns:
        `mean`, `low`, `high`, `count`: the ratio of the two sums, which photos with a tiny change cannot dominate, with
        its bootstrap interval over photos; only `count` 0 if the edit changes nothing.
    """
    known = ~(np.isnan(done) | np.isnan(wanted))
    done, wanted = done[known], wanted[known]
    if not len(done) or not wanted.sum():
        return {"count": 0}
    drawn = draws(len(done), samples, seed)
    low, high = interval(done[drawn].sum(1) / wanted[drawn].sum(1), level)
    return {"mean": float(done.sum() / wanted.sum()), "low": low, "high": high, "count": len(done)}


def interval(values: Floats, level: float, method: Any = "linear") -> tuple[float, float]:
    """The middle `level` of values (n,); `method` is that of `numpy.quantile`."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method=method)
    return float(low), float(high)


def number(entry: Mapping[str, Any] | None) -> str:
    """`0.52 [0.48, 0.56]`, or `n/a` where nothing was measured.

    >>> number({"mean": 0.5234, "low": 0.5, "high": 0.55, "count": 9})
    '0.523 [0.500, 0.550]'
    >>> number({"count": 0})
    'n/a'
    """
    if not entry or entry.get("mean") is None:
        return "n/a"
    text = digits(entry["mean"])
    return f"{text} [{digits(entry['low'])}, {digits(entry['high'])}]" if "low" in entry else text


def digits(value: float) -> str:
    """Three decimals, or one from 10 on."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
