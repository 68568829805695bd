"""Likeness at equal change: interpolation, its intervals, and methods that do not reach the change."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.errors import UserError
from oodgan.evaluation import merged
from oodgan.evaluation.curves import Curve, draw, equal_change, interpolate, likeness_at, to_table
from oodgan.evaluation.methods import Variant
from oodgan.evaluation.pairs import Pair
from oodgan.evaluation.protocol import Protocol
from oodgan.evaluation.score import Job
from oodgan.stages import evaluate

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import config

PROTOCOL = Protocol(metrics=["identity_facenet_20180408", "lpips_alex_v0.1"], bootstrap_samples=400)
IDENTITY, LPIPS = PROTOCOL.metrics


def test_interpolation_gives_the_expected_values():
    change = np.array([[0.2, 0.6, 1.0], [0.2, 0.6, 1.0], [0.5, 0.1, 0.9], [0.0, 0.0, 0.3], [0.8, 0.9, 1.0]])
    value = np.array([[0.9, 0.7, 0.6], [0.9, 0.7, 0.6], [0.8, 0.7, 0.5], [1, 1, 1], [0.4, 0.3, 0.2]])
    result = interpolate(change, value, 0.7)
    np.testing.assert_allclose(result, [0.675, 0.675, 0.55, np.nan, 0.4])
    assert interpolate(np.array([[0.7]]), np.array([[0.5]]), 0.7) == 0.5  # a single strength with exactly this change


def scores(photos, effect, cost, strengths=(0.5, 1, 1.5), noise=0.05, seed=0):
    """(photos, strengths, [identity, lpips, change]): change is effect x strength, likeness decreases with change."""
    rng = np.random.default_rng(seed)
    change = np.outer(np.ones(photos), strengths) * effect + rng.normal(0, noise, (photos, 1))
    identity = 1 - cost * change + rng.normal(0, noise, (photos, 1))
    return np.stack([identity, 0.1 * change, change], 2)


def job(**methods):
    rows = {f"{m}@{s:g}": Variant(m, "folder", s) for m in methods for s in (0.5, 1, 1.5)}
    pairs = [Pair(0, "0", Path("0"), dict.fromkeys(rows, Path("x")))]
    made = Job(pairs, PROTOCOL, None, variants=rows, probes={("smile", "probe", 1.0): lambda x: x.mean((1, 2, 3))})
    return made, np.concatenate(list(methods.values()), 1)


def test_there_are_no_curves_without_a_metric_of_likeness():
    made, table = job(ours=scores(5, 0.8, 0.3))
    other = Job(
        made.pairs, Protocol(metrics=["psnr", "ssim_gauss11"]), None, variants=made.variants, probes=made.probes
    )
    assert equal_change(other, table, {"smile": 0.6}) == {}


def test_a_method_that_does_not_reach_the_change_is_not_ranked():
    """Its likeness is best at every strength, but it has no rank at the required change of the attribute."""
    made, table = job(lazy=scores(20, 0.1, 0.1), honest=scores(20, 0.8, 0.3), rough=scores(20, 0.8, 0.6))
    result = equal_change(made, table, {"smile": 0.6})
    smile = result["smile"]["methods"]
    points = {m: [p[IDENTITY]["mean"] for p in e["points"]] for m, e in smile.items()}
    assert min(points["lazy"]) > max(points["honest"])
    assert smile["lazy"]["likeness"][IDENTITY] == {"count": 20, "why": "not reached"}
    honest = smile["honest"]["likeness"][IDENTITY]
    assert honest["mean"] == pytest.approx(1 - 0.3 * 0.6, abs=0.03) and honest["reached"] == 1
    assert honest["low"] < honest["mean"] < honest["high"]
    shown = to_table(result)
    rows = {row[2]: row for row in shown.rows}
    assert rows["lazy"][3:] == ["not reached", "not reached"] and rows["honest"][:2] == ["smile", "+0.6"]
    assert shown.best == {(1, 3), (1, 4)} or shown.best == {(1, 3), (2, 4)}
    assert draw(result)[:8] == b"\x89PNG\r\n\x1a\n"


def test_intervals_of_interpolated_identity_have_the_stated_coverage():
    hits = 0
    for seed in range(150):
        part = scores(25, 0.8, 0.3, noise=0.1, seed=seed)
        entry = likeness_at(Curve((0.5, 1, 1.5), part[..., 2], {IDENTITY: part[..., 0]}), IDENTITY, 0.6, PROTOCOL)
        # identity = 1 - 0.3 change + noise: 0.82 at a mean change of 0.6
        hits += entry["low"] < 0.82 < entry["high"]
    assert 130 <= hits <= 149  # 142 expected, a little fewer with 25 photos


def test_intervals_are_open_where_the_change_is_not_reached():
    part = scores(12, 0.42, 0.3, noise=0.15)  # the strongest edit barely reaches 0.6
    curve = Curve((0.5, 1, 1.5), part[..., 2], {IDENTITY: part[..., 0], LPIPS: part[..., 1]})
    at = float(part[..., 2].mean(0)[-1]) - 1e-3
    identity, lpips = (likeness_at(curve, name, at, PROTOCOL) for name in (IDENTITY, LPIPS))
    assert 0.3 < identity["reached"] < 0.7 and identity["reached"] == lpips["reached"]
    assert identity["low"] is None and identity["high"] is not None
    assert lpips["high"] is None and lpips["low"] is not None
    assert likeness_at(curve, LPIPS, 0.01, PROTOCOL)["why"].endswith("already at strength 0.5")


@pytest.fixture
def brightness_data(tmp_path, draw_face):
    """A probe of brightness under the name `smile`, photos, and two methods at three strengths."""
    from oodgan.directions.features import Extractor
    from oodgan.directions.probes import fit_probes

    faces = [np.asarray(draw_face(i, 64)).astype(int) for i in range(24)]
    seen = np.stack([(face + shift).clip(0, 255) for i, face in enumerate(faces) for shift in (0, 8 * (i % 6))])
    images = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 127.5 - 1
    extractor = Extractor("alexnet", 64)
    fit_probes(extractor(images), {"smile": images.mean((1, 2, 3))}, extractor).save(tmp_path / "probe.safetensors")
    for i in range(5):
        photo = faces[i]
        places = {"photos": 0} | {f"honest{s}": 40 * s for s in (0.5, 1, 1.5)} | {f"lazy{s}": 2 * s for s in (0.5, 1)}
        for folder, shift in places.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray((photo + shift).clip(0, 255).astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    return tmp_path


@pytest.mark.network
def test_the_stage_compares_folders_of_several_strengths(brightness_data, capsys):
    methods = {
        "lazy": {s: str(brightness_data / f"lazy{s}") for s in (0.5, 1)},
        "honest": {s: str(brightness_data / f"honest{s}") for s in (0.5, 1, 1.5)},
    }
    metrics = {"resolution": 64, "metrics": ["lpips_alex_v0.1", "psnr"], "sets": [], "bootstrap_samples": 50}
    settings = {"methods": methods, "metrics": metrics, "edits": {"smile": 1.0}, "at": {"smile": 0.7}}
    cfg = config(brightness_data, probes=str(brightness_data / "probe.safetensors"), **settings)
    evaluate.run(cfg)
    held = json.loads((brightness_data / "out/metrics.json").read_text())
    result = held["equal_change"]["smile"]["methods"]
    changes = [point["change"]["mean"] for point in result["honest"]["points"]]
    assert changes == sorted(changes) and changes[-1] > 0.7, changes
    assert result["lazy"]["likeness"]["lpips_alex_v0.1"]["why"] == "not reached"
    assert result["honest"]["likeness"]["lpips_alex_v0.1"]["mean"] > 0
    table = (brightness_data / "out/table.md").read_text()
    assert "| smile | +0.7 | lazy | not reached |" in table and "| smile | +0.7 | honest | **" in table
    assert "| lazy@0.5 |" in table and "### Likeness at equal change" in capsys.readouterr().out
    assert Image.open(brightness_data / "out/curves.png").width > 400
    assert "data:image/png" in (brightness_data / "out/report.html").read_text()
    both = merged.read([brightness_data / "out", brightness_data / "out"])
    text = merged.table(both, ["honest"], ["lpips", "change"])
    assert "| out: smile | +0.7 | honest |" in text and "lazy" not in text and "psnr" not in text
    assert "| method | lpips_alex_v0.1 ↓ | change_probe_" in text
    assert draw(merged.equal_change(both, ["honest"], ["lpips"]))[:4] == b"\x89PNG"
    with pytest.raises(UserError, match=r"at\.smile=-1 must be a positive change"):
        evaluate.run(config(brightness_data, **settings | {"at": {"smile": -1}}))
