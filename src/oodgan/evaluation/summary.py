"""Computes means with confidence intervals, FID and KID from stored scores."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodgan.evaluation.intervals import bootstrap, edit_kept
from oodgan.evaluation.methods import INVERSION, INVERTING, PLAIN, Variant
from oodgan.evaluation.pairs import Pair
from oodgan.evaluation.protocol import Protocol
from oodgan.evaluation.score import Job, extractor
from oodgan.evaluation.store import Store
from oodgan.metrics.distribution import FID, INCEPTION, INCEPTION_DIM, KID
from oodgan.tracking.artifacts import hash_settings

Summary = dict[str, dict[str, Any]]


def load(store: Store, count: int) -> NDArray[np.float64]:
    """Load all scores (photos, methods, metrics), by index of the photos."""
    table: NDArray[np.float64] | None = None
    for scores in store.read():
        if table is None:
            table = np.full((count, *scores.values.shape), np.nan)
        table[scores.index] = scores.values
    assert table is not None
    return table


def summarise(job: Job, table: NDArray[np.float64]) -> Summary:
    """Return {method: {metric: {mean, low, high, median, count}}}; the share of the edit kept has no `median`."""
    protocol = job.protocol
    summary: Summary = {}
    for m, method in enumerate(job.methods):
        summary[method] = {}
        for metric, values in zip(job.build(), table[:, m].T, strict=True):
            known = values[~np.isnan(values)]
            metric.update(values=torch.from_numpy(values))
            entry: dict[str, Any] = {"count": len(known)}
            if len(known):
                low, high = bootstrap(known, protocol.bootstrap_samples, protocol.bootstrap_level, protocol.seed)
                entry |= {"mean": float(metric.compute()), "low": low, "high": high, "median": float(np.median(known))}
            summary[method][metric.name] = entry
    _add_kept(summary, table, job)
    return summary


def _add_kept(summary: Summary, table: NDArray[np.float64], job: Job) -> None:
    """Add the share of the edit kept, if the inversion and the plain edit at the same strength were scored.

    A method with another inversion is compared with the inversion and the plain edit that have that one, too.
    """
    protocol = job.protocol
    rows = [job.variant(row) for row in job.methods]
    places = {(_kind(v), _inverting(v), v.strength): m for m, v in enumerate(rows)}
    for k, column in enumerate(job.columns):
        if not column.startswith("change_"):
            continue
        for m, variant in enumerate(rows):
            before = places.get((INVERSION, _inverting(variant), 1.0))
            after = places.get((PLAIN, _inverting(variant), variant.strength))
            if before is None or after is None or m in (before, after):
                continue
            wanted = table[:, after, k] - table[:, before, k]
            settings = protocol.bootstrap_samples, protocol.bootstrap_level, protocol.seed
            entry = edit_kept(table[:, m, k], wanted, *settings)
            summary[job.methods[m]][column.replace("change_", "edit_kept_", 1)] = entry


def _kind(variant: Variant) -> str:
    """`inversion` and `plain` also where a folder of pictures has that name."""
    return variant.method if variant.method in (INVERSION, PLAIN) else variant.source


def _inverting(variant: Variant) -> str:
    return hash_settings({part: variant.changes[part] for part in INVERTING if part in variant.changes})


def statistics_key(pairs: Sequence[Pair], protocol: Protocol) -> str:
    """Hash the photos' bytes, order and preparation, on which the statistics of the real set depend."""
    from oodgan.files import hash_of

    hasher = hashlib.sha256(f"{extractor(protocol)[1]} {protocol.preparation}".encode())
    for pair in pairs:
        hasher.update(os.fsencode(f"{pair.name} {hash_of(pair.photo)}\n"))
    return hasher.hexdigest()[:16]


def statistics_path(key: str) -> Path:
    """Return the file of the cached statistics, which may not exist."""
    from oodgan.weights.fetch import cache_folder

    return cache_folder() / "statistics" / f"{INCEPTION}-{key}.safetensors"


def real_statistics(store: Store, path: Path) -> dict[str, Tensor]:
    """Return running sums for FID and the features for KID of the photos, from the cache or from the store."""
    from safetensors.torch import load_file

    from oodgan.files import save_tensors

    if path.is_file():
        return load_file(path)
    fid, kid = FID(sync_on_compute=False), KID(sync_on_compute=False)
    for scores in store.read():
        features = torch.from_numpy(scores.features[-1:])
        fid.update(features, real=True)
        kid.update(features, True, torch.tensor([scores.index]))
    features, keys = kid.kept(real=True)
    statistics = {**fid.moments(real=True), "features": features, "keys": keys}
    save_tensors(path, {key: value.contiguous() for key, value in statistics.items()})
    return statistics


def add_sets(summary: Summary, job: Job, real: Mapping[str, Tensor]) -> None:
    """Adds the protocol's FID and KID of every method, streaming the stored features."""
    count = len(job.pairs)
    if job.protocol.sets and count < INCEPTION_DIM:
        warnings.warn(
            f"FID and KID from {count} images are unreliable: FID needs more images than its {INCEPTION_DIM} features; "
            "compare them only between methods on these same photos"
        )
    extract, name = extractor(job.protocol)
    own = None if name == INCEPTION else extract
    for m, method in enumerate(job.methods):
        fid, kid = FID(own, name, sync_on_compute=False), KID(sync_on_compute=False)
        fid.add_moments({key: real[key] for key in ("sum", "outer", "count")}, real=True)
        if "keys" in real:
            kid.update(real["features"], True, real["keys"])
        for scores in job.store.read():
            features = torch.from_numpy(scores.features[m : m + 1])
            fid.update(features, real=False)
            kid.update(features, False, torch.tensor([scores.index]))
        for metric in (fid, kid):
            if metric.name in job.protocol.sets:
                summary[method][metric.name] = _mean(float(metric.compute()), count)


def _mean(value: float, count: int) -> dict[str, Any]:
    """An entry without `mean` where there is no number, as for FID of one photo."""
    return {"count": count} if math.isnan(value) else {"mean": value, "count": count}
