"""Bootstrap intervals, and the kept fraction of an edit if the inversion also changes the attribute."""

import numpy as np
import pytest
import torch

from oodgan.evaluation.intervals import bootstrap, edit_kept
from oodgan.evaluation.pairs import Pair
from oodgan.evaluation.protocol import Protocol
from oodgan.evaluation.score import Job
from oodgan.evaluation.summary import summarise
from oodgan.metrics.attributes import AttributeChange

SETTINGS = {"samples": 200, "level": 0.95, "seed": 0}


def brightness(images):
    return images.mean((1, 2, 3))


def test_a_change_by_the_inversion_is_not_counted_as_edit():
    """Scores are brightness. The inversion is 0.3 brighter than the photo, the edit adds 0.2 to it, and the result
    keeps half of the edit: 0.1 / 0.2 = 50 %, not 0.1 / (0.3 + 0.2) = 20 %."""
    photos = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.5
    inverted = photos + 0.3
    pictures = {"inversion": inverted, "plain": inverted + 0.2, "ours": photos + 0.1, "copy": photos}
    metric = AttributeChange(brightness, "light", "mean")
    table = torch.stack([metric.per_image(p, photos) for p in pictures.values()], 1)[:, :, None].numpy()
    pairs = [Pair(i, str(i), f"{i}.png", dict.fromkeys(pictures, "x.png")) for i in range(6)]
    protocol = Protocol(metrics=[], bootstrap_samples=50)
    summary = summarise(Job(pairs, protocol, None, probes={("light", "mean", 1.0): brightness}), table)
    kept = {name: entries.get("edit_kept_light_mean") for name, entries in summary.items()}
    assert kept["ours"]["mean"] == pytest.approx(0.5) and kept["ours"]["count"] == 6
    assert kept["copy"]["mean"] == pytest.approx(0, abs=1e-7)
    assert kept["inversion"] is kept["plain"] is None
    assert summary["plain"]["change_light_mean"]["mean"] == pytest.approx(0.5)
    without = Job(
        [Pair(0, "0", "0.png", {"plain": "x", "ours": "x"})], protocol, None, probes=dict.fromkeys([("a", "b", 1.0)])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "build", lambda self: [AttributeChange(brightness, "a", "b")])
        assert "edit_kept_a_b" not in summarise(without, np.ones((1, 2, 1)))["ours"]


def test_edit_kept_is_a_ratio_of_sums_with_an_interval():
    rng = np.random.default_rng(0)
    wanted = rng.normal(1, 0.5, 40)
    wanted[0] = 1e-9  # a photo without change would dominate a mean of ratios
    entry = edit_kept(0.6 * wanted + rng.normal(0, 0.1, 40), wanted, **SETTINGS)
    assert entry["mean"] == pytest.approx(0.6, abs=0.05) and entry["low"] < 0.6 < entry["high"] < 0.75
    assert edit_kept(np.array([1.0, np.nan]), np.array([2.0, 1.0]), **SETTINGS)["count"] == 1
    assert edit_kept(np.ones(3), np.zeros(3), **SETTINGS) == {"count": 0}


def test_bootstrap_intervals_have_the_stated_coverage():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        low, high = bootstrap(rng.normal(3, 1, 30), 200, 0.9, seed=i)
        hits += low < 3 < high
    assert 165 <= hits <= 195  # 180 expected
