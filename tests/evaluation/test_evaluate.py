import csv
import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from oodgan.errors import UserError
from oodgan.evaluation import score
from oodgan.evaluation.store import Scores, Store
from oodgan.stages import evaluate

COUNT = 7


@pytest.fixture
def folders(tmp_path, draw_face):
    for folder in ("photos", "near", "far"):
        (tmp_path / folder).mkdir()
    for i in range(COUNT):
        photo = np.asarray(draw_face(i)).astype(int)
        for folder, shift in (("photos", 0), ("near", 2 + i), ("far", 40)):
            Image.fromarray((photo + shift).clip(0, 255).astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def config(folders, output="out", **changes):
    metrics = {"resolution": 32, "metrics": ["psnr", "ssim_gauss11"], "sets": [], "bootstrap_samples": 50}
    values = {
        "stage": "evaluate",
        "photos": str(folders / "photos"),
        "masks": None,
        "methods": {"near": str(folders / "near"), "far": str(folders / "far")},
        "edits": None,
        "probes": None,
        "attributes": None,
        "output": str(folders / output),
        "batch_size": 3,
        "workers": 0,
        "sheet_by": None,
        "replace": False,
        "metrics": metrics,
        "trainer": {"accelerator": "cpu", "devices": 1},
        "logger": {},
    }
    return OmegaConf.create(values | changes)


def result(folders, output="out"):
    return json.loads((folders / output / "metrics.json").read_text())


def test_an_evaluation_writes_scores_table_report_and_sheets(folders, capsys):
    actual = evaluate.run(config(folders))
    held = result(folders)
    assert held["count"] == COUNT and held["protocol"]["resolution"] == 32
    assert actual["metrics"] == held["methods"]
    rows = list(csv.DictReader((folders / "out/per_image.csv").open()))
    assert len(rows) == 2 * COUNT
    near = [float(row["psnr"]) for row in rows if row["method"] == "near"]
    entry = held["methods"]["near"]["psnr"]
    assert entry["mean"] == pytest.approx(np.mean(near), rel=1e-6)
    assert entry["low"] < entry["mean"] < entry["high"] and entry["count"] == COUNT
    # A shift of 2 levels is 20 log10(255 / 2) = 42.1 dB, and slightly more because of clipped pixels.
    assert near[0] == pytest.approx(42.1, abs=0.3)
    assert held["methods"]["far"]["psnr"]["mean"] < 20
    assert "| near | **" in (folders / "out/table.md").read_text() and "near" in capsys.readouterr().out
    page = (folders / "out/report.html").read_text()
    assert page.count("data:image/jpeg") == 3 * COUNT and "sheets/far.png" in page
    assert Image.open(folders / "out/sheets/near.png").size[0] > 1000
    assert not (folders / "out/progress").exists()


def test_finished_work_is_not_repeated(folders, monkeypatch):
    evaluate.run(config(folders))
    monkeypatch.setattr(score, "Scorer", None)
    evaluate.run(config(folders))
    with pytest.raises(UserError, match="result of another evaluation"):
        evaluate.run(config(folders, methods={"near": str(folders / "near")}))


def test_a_killed_evaluation_scores_no_photo_twice(folders, monkeypatch):
    evaluate.run(config(folders, "whole"))
    write, written = Store.write, []

    def killed(self, scores):
        if written:
            raise KeyboardInterrupt
        written.extend(s.name for s in scores)
        write(self, scores)

    monkeypatch.setattr(Store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(config(folders))
    assert len(written) == 3 and not (folders / "out/metrics.json").exists()

    def counted(self, scores):
        written.extend(s.name for s in scores)
        write(self, scores)

    monkeypatch.setattr(Store, "write", counted)
    evaluate.run(config(folders))
    assert sorted(written) == [str(i) for i in range(COUNT)]
    assert result(folders)["methods"] == result(folders, "whole")["methods"]


def test_a_partially_written_batch_counts_as_not_scored(tmp_path):
    store = Store(tmp_path)
    one = Scores(0, "a", np.zeros((2, 3)), np.zeros((0, 0), np.float32))
    store.write([one])
    (tmp_path / "00000001.npz").write_bytes((tmp_path / "00000000.npz").read_bytes()[:50])
    assert store.done() == {"a"}


def test_regions_are_measured_where_masks_are_given(folders):
    (folders / "masks").mkdir()
    for i in range(COUNT - 1):
        labels = np.full((48, 48), 14 if i == 0 else 1, np.uint8)
        Image.fromarray(labels).save(folders / "masks" / f"{i}.png")
    metrics = {"resolution": 32, "metrics": ["psnr", "psnr_background_hat_cloth"], "sets": []}
    evaluate.run(config(folders, masks=str(folders / "masks"), metrics=metrics))
    entries = result(folders)["methods"]["far"]
    assert entries["psnr_background_hat_cloth"]["count"] == 1 and entries["psnr"]["count"] == COUNT
    evaluate.run(config(folders, "without", metrics=metrics))
    assert "psnr_background_hat_cloth" not in result(folders, "without")["methods"]["far"]


def test_a_built_in_method_needs_an_edit(folders):
    with pytest.raises(UserError, match="plain needs an edit"):
        evaluate.run(config(folders, methods={"plain": "plain"}))


def test_out_of_range_pictures_are_refused():
    with pytest.raises(UserError, match="ours of 3 is out of range: values from 0 to 255"):
        score.check_range(torch.tensor([0.0, 255.0]), "ours of 3")
    with pytest.raises(UserError, match="out of range"):
        score.check_range(torch.tensor([0.0, torch.nan]), "x")


@pytest.mark.network
@pytest.mark.slow
def test_fid_and_kid_are_computed_with_cached_statistics_of_the_photos(folders, tmp_path, monkeypatch):
    from oodgan.weights.fetch import fetch

    fetch("inception_fid")
    metrics = {"resolution": 32, "metrics": ["psnr"], "sets": ["fid_inception2015", "kid_inception2015"]}
    cache = tmp_path / "statistics"
    monkeypatch.setattr("oodgan.evaluation.summary.statistics_path", lambda key: cache / f"{key}.safetensors")
    with pytest.warns(UserWarning, match="from 7 images are unreliable"):
        evaluate.run(config(folders, metrics=metrics))
    held = result(folders)["methods"]
    assert 0 <= held["near"]["fid_inception2015"]["mean"] < held["far"]["fid_inception2015"]["mean"]
    assert len(list(cache.iterdir())) == 1
    features, counted = score.inception_features, []
    monkeypatch.setattr(score, "inception_features", lambda x: (counted.append(len(x)), features(x))[1])
    with pytest.warns(UserWarning, match="unreliable"):
        evaluate.run(config(folders, "again", metrics=metrics | {"sets": ["kid_inception2015"]}))
    assert sum(counted) == 2 * COUNT  # features of the photos come from the cache
    again = result(folders, "again")["methods"]
    kid = "kid_inception2015"
    assert again["far"][kid]["mean"] == pytest.approx(held["far"][kid]["mean"], rel=1e-6)
    assert set(again["far"]) == {"psnr", kid}
