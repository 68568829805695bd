"""FID of edited photos to real photos with the attribute: the two groups of photos, and the distance."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from oodgan.data.images import read_image
from oodgan.data.splits import TEST, CelebAHQSplit
from oodgan.errors import UserError
from oodgan.evaluation.edited_fid import Attribute
from oodgan.evaluation.protocol import Protocol
from oodgan.metrics.distribution import frechet_distance, pytorch_fid_features
from oodgan.stages import evaluate

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import COUNT, config, folders  # noqa: F401  (folders is a fixture)

SMILING = {1, 3, 4, 6}


@pytest.fixture
def table(tmp_path):
    """A table like CelebAMask-HQ's, in which only the photos 1, 3, 4 and 6 have an attribute: smiling."""
    names = ["Smiling", *(f"Other_{i}" for i in range(39))]
    rows = [" ".join([f"{i}.jpg", " 1" if i in SMILING else "-1", *["-1"] * 39]) for i in range(COUNT)]
    path = tmp_path / "table.txt"
    path.write_text("\n".join([str(COUNT), " ".join(names), *rows]) + "\n")
    return path


def attribute(table, present, name="Smiling"):
    return {"name": name, "present": present, "table": str(table)}


def test_photos_without_the_attribute_are_edited_and_compared_with_photos_that_have_it(table):
    names = [str(i) for i in range(COUNT)]
    assert Attribute.from_config(attribute(table, True)).sides(names) == (["0", "2", "5"], ["1", "3", "4", "6"])
    assert Attribute.from_config(attribute(table, False)).sides(names) == (["1", "3", "4", "6"], ["0", "2", "5"])
    with pytest.raises(UserError, match="the photo 99 has no row"):
        Attribute.from_config(attribute(table, True)).sides(["0", "99"])
    with pytest.raises(UserError, match="there are 0 photos with Smiling and 2 others"):
        Attribute.from_config(attribute(table, True)).sides(["0", "2"])
    with pytest.raises(UserError, match="did you mean 'Smiling'"):
        Attribute.from_config(attribute(table, True, "Smilin"))
    with pytest.raises(UserError, match="needs present, table too"):
        Attribute.from_config({"name": "Smiling"})


def test_invalid_protocols_are_refused_and_the_default_has_no_attribute():
    with pytest.raises(UserError, match="of two feature extractors"):
        Protocol(sets=["fid_pytorchfid", "kid_inception2015"])
    with pytest.raises(UserError, match=r"sets must be \[fid_pytorchfid\]"):
        Protocol(attribute={"name": "x"})
    assert "attribute" not in Protocol().as_dict()


def test_every_celebahq_test_photo_is_in_one_of_the_two_groups(shared):
    """The 2,824 test photos by CelebA-HQ's own tables."""
    labels = shared / "data/celebahq_labels"
    split = CelebAHQSplit(labels / "CelebA-HQ-to-CelebA-mapping.txt.gz", labels / "list_eval_partition.txt.gz")
    names = [str(i) for i in range(30000) if split(str(i)) == TEST]
    for name, present in (("Smiling", False), ("Eyeglasses", True), ("Young", False)):
        config = attribute(labels / "CelebAMask-HQ-attribute-anno.txt.gz", present, name)
        edited, real = Attribute.from_config(config).sides(names)
        assert len(edited) + len(real) == 2824 and len(real) > 100


@pytest.mark.network
def test_the_fid_is_the_distance_between_the_two_groups(folders, table, tmp_path, monkeypatch):  # noqa: F811
    metrics = {"resolution": 32, "filter": "bilinear", "metrics": ["psnr"], "sets": ["fid_pytorchfid"]}
    metrics |= {"bootstrap_samples": 20, "attribute": attribute(table, True)}
    monkeypatch.setattr("oodgan.evaluation.summary.statistics_path", lambda key: tmp_path / f"real-{key}.safetensors")
    with pytest.warns(UserWarning, match="from 3 images are unreliable"):
        evaluate.run(config(folders, metrics=OmegaConf.create(metrics)))
    held = json.loads((folders / "out/metrics.json").read_text())
    assert held["count"] == 3 and "FID is to 4 other, real photos" in (folders / "out/table.md").read_text()
    protocol = Protocol.from_config(metrics)

    def features(folder, numbers):
        images = [protocol.prepare(read_image(folders / folder / f"{i}.png")[None]) for i in numbers]
        return pytorch_fid_features(torch.cat(images)).double().numpy()

    def gaussian(x):
        return torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))

    real = gaussian(features("photos", [1, 3, 4, 6]))
    for method in ("near", "far"):
        expected = frechet_distance(*real, *gaussian(features(method, [0, 2, 5])))
        assert held["methods"][method]["fid_pytorchfid"]["mean"] == pytest.approx(expected, rel=1e-4)
    assert len(list(tmp_path.glob("real-*.safetensors"))) == 1
