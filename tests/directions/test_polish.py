"""Polished directions change their own region, and are read back from the cache unchanged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from oodgan.directions.calibrate import Bench
from oodgan.directions.discovery import ProbeDiscovery
from oodgan.directions.features import Extractor
from oodgan.directions.polish import Polisher
from oodgan.errors import UserError

BELOW = [0.0, 0.5, 1.0, 1.0]


@pytest.fixture
def bench(painter, painted: Path) -> Bench:
    settings = {"samples": 60, "truncation": 1.0, "size": 64, "holdout": 0.3}
    result = ProbeDiscovery(str(painted / "labels.csv"), str(painted / "images"), **settings).discover(painter)
    assert result.probes is not None
    return Bench(painter, Extractor("alexnet", 64), result.probes, 64, thumbnail)


def thumbnail(images: torch.Tensor) -> torch.Tensor:
    """A quick recogniser of pictures without faces; test_stage.py polishes with FaceNet."""
    return F.normalize(F.adaptive_avg_pool2d(images, 8).flatten(1))


@pytest.mark.network
def test_polishing_reduces_the_change_outside_the_region(painter, bench: Bench, caplog) -> None:
    # In all layers, so that the direction changes both the disc and the upper half.
    direction = (painter.disc.weight[0] * 3).expand(4, -1).clone()
    polisher = Polisher(steps=25, codes=8, components=8, lr=0.1)
    with caplog.at_level(logging.INFO, "oodgan"):
        polished = polisher(bench, "disc", direction, BELOW)
    assert "polish disc 25/25" in caplog.text

    def leak(steps: torch.Tensor) -> float:
        change = painter.synthesis(steps[None]) - painter.synthesis(torch.zeros_like(steps)[None])
        return float(change[..., :32, :].abs().mean() / change[..., 32:, :].abs().mean())

    assert leak(polished) < 0.5 * leak(direction)
    assert float(painter.disc.weight[0] @ polished[2]) > 0.7 * float(painter.disc.weight[0] @ direction[2])


@pytest.mark.network
def test_polished_directions_are_cached(painter, bench: Bench, tmp_path: Path) -> None:
    direction = (painter.disc.weight[0] * 3).expand(4, -1).clone()
    polisher = Polisher(steps=2, codes=8, components=8, cache=tmp_path)
    polished = polisher(bench, "disc", direction, BELOW)
    (kept,) = tmp_path.glob("polished-disc-*.safetensors")
    stamp = kept.stat().st_mtime_ns
    # A difference in the last digits hits the cache; another initial direction or other settings do not.
    assert torch.equal(polisher(bench, "disc", direction * (1 + 1e-6), BELOW), polished)
    assert kept.stat().st_mtime_ns == stamp
    again = polisher(bench, "disc", direction * 1.2, BELOW)
    assert not torch.equal(again, polished) and kept.stat().st_mtime_ns > stamp
    Polisher(steps=1, codes=8, components=8, cache=tmp_path)(bench, "disc", direction, BELOW)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.network
@pytest.mark.parametrize("place", [[0.1, 0.2, 0.3], [0.5, 0, 0.4, 1], [0, 0, 1, 1.2]])
def test_an_invalid_region_is_refused(bench: Bench, place: list[float]) -> None:
    with pytest.raises(UserError, match=r"disc\.polish\.place=.*left, top, right, bottom"):
        Polisher()(bench, "disc", torch.zeros(4, 512), place)


@pytest.mark.network
@pytest.mark.slow
def test_attributes_to_preserve_change_less(painter, bench: Bench) -> None:
    direction = (painter.disc.weight[0] * 3).expand(4, -1).clone()
    everywhere = [0.0, 0.0, 1.0, 1.0]  # so that only the scores limit the change
    polisher = Polisher(steps=20, codes=8, components=8, lr=0.1)
    plain = polisher(bench, "disc", direction, everywhere)
    spared = polisher(bench, "disc", direction, everywhere, {"top": 30})

    def score_change(steps: torch.Tensor) -> float:
        scores = bench(torch.stack([torch.zeros_like(steps), steps])).scores[:, bench.probes.index("top")]
        return float((scores[1] - scores[0]).abs())

    assert score_change(spared) < 0.8 * score_change(plain)

    def colour_change(steps: torch.Tensor) -> float:
        images = painter.synthesis(torch.stack([torch.zeros_like(steps), steps]))
        chroma = images - images.mean(1, keepdim=True)
        return float((chroma[1] - chroma[0]).abs().mean())

    dear = polisher.but(colour=1e4)(bench, "disc", direction, everywhere)
    assert colour_change(dear) < 0.8 * colour_change(plain)
    with pytest.raises(UserError, match=r"polish.spare: 'tpo' \(did you mean 'top'"):
        polisher(bench, "disc", direction, everywhere, {"tpo": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plish": {}}, "option of attribute 'smile': 'plish' .did you mean 'polish'"),
        ({"polish": {"plase": []}}, "option of smile.polish: 'plase' .did you mean 'place'"),
    ],
)
def test_an_unknown_option_is_reported_before_any_work(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProbeDiscovery("labels.csv", "images", {"smile": options, "glasses": {}})


def test_zero_steps_are_refused() -> None:
    with pytest.raises(UserError, match="steps=0"):
        Polisher(steps=0)
