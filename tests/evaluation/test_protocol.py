import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgan.errors import UserError
from oodgan.evaluation import merged
from oodgan.evaluation.pairs import match
from oodgan.evaluation.protocol import Protocol, same_protocol
from oodgan.evaluation.report import markdown, order
from oodgan.launch import config_folder

SMALL = {"resolution": 32, "metrics": ["psnr"], "sets": []}


@pytest.mark.parametrize(
    "name", ["protocol_v1", "quick", "likeness", "celebahq_edited_fid", "folder_test", "ffhq_test", "celebahq_test"]
)
def test_every_protocol_config_builds_a_protocol_with_its_name(name):
    with initialize_config_dir(str(config_folder() / "metrics"), version_base="1.3"):
        values = OmegaConf.to_container(compose(name), resolve=True)
    protocol = Protocol.from_config(values)
    assert protocol.name == name and protocol.as_dict() == values
    assert name == "protocol_v1" or protocol.id.split("-")[1] != Protocol.from_config(values | {"seed": 9}).id


def test_the_protocol_id_depends_on_every_field():
    ids = {Protocol(**changed).id for changed in ({}, {"resolution": 128}, {"antialias": False}, {"seed": 1})}
    assert len(ids) == 4
    assert Protocol().id == Protocol().id


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"filter": "bicubicc"}, "did you mean 'bicubic'"),
        ({"metrics": ["psnrr"]}, "did you mean 'psnr'"),
        ({"metrics": ["psnr", "mask_share_inside"]}, "mask_share_inside needs a region for each photo"),
        ({"sets": ["fid_inception"]}, "did you mean 'fid_inception2015'"),
        ({"resolutions": 3}, "did you mean 'resolution'"),
        ({"resolution": 4}, "at least 16"),
    ],
)
def test_invalid_protocols_are_errors(values, message):
    with pytest.raises(UserError, match=message):
        Protocol.from_config(values)


def test_the_chosen_photos_are_stable_when_photos_are_added():
    protocol = Protocol(count=5)
    names = [f"{i:03d}" for i in range(40)]
    chosen = protocol.choose(names)
    assert len(chosen) == 5 and chosen == sorted(chosen) == protocol.choose(reversed(names))
    assert Protocol(count=5, seed=1).choose(names) != chosen
    assert len(set(protocol.choose([*names, "extra"])) & set(chosen)) >= 4
    with pytest.raises(UserError, match="asks for 50 photos, only 40"):
        Protocol(count=50).choose(names)


def test_prepare_resizes_with_antialiasing_and_rounds_to_8_bits():
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prepared = Protocol(resolution=32).prepare(images)
    levels = (prepared + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    same = Protocol(resolution=64, rounding="none").prepare(images)
    assert torch.equal(same, images)
    aliased = Protocol(resolution=32, antialias=False).prepare(images)
    assert (aliased - prepared).abs().mean() > 0.05


def test_results_of_different_protocols_are_not_merged_into_one_table(tmp_path):
    for name, protocol in (("a", Protocol(**SMALL)), ("b", Protocol(**SMALL | {"resolution": 64}))):
        (tmp_path / name).mkdir()
        result = {"protocol": protocol.as_dict(), "protocol_id": protocol.id, "photos": "x", "count": 3}
        result["methods"] = {"m": {"psnr": {"mean": 20.0, "count": 3}}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(result))
    assert "| m | 20.0 |" in merged.table(merged.read([tmp_path / "a"]))
    assert "| b: m |" in merged.table(merged.read([tmp_path / "b", tmp_path / "b"]))
    with pytest.raises(UserError, match="different protocols and share no table: resolution is 32 and 64"):
        merged.table(merged.read([tmp_path / "a", tmp_path / "b"]))
    with pytest.raises(UserError, match="no result"):
        merged.table(merged.read([tmp_path]))
    same_protocol([("a", {"x": 1}), ("b", {"x": 1})])


def test_the_table_prints_the_best_value_of_each_metric_in_bold():
    summary = {
        "one": {"psnr": {"mean": 20.0, "count": 1}, "lpips_alex_v0.1": {"mean": 0.2, "count": 1}},
        "two": {"psnr": {"mean": 30.0, "count": 1}, "lpips_alex_v0.1": {"mean": 0.3, "count": 1}},
    }
    lines = markdown(summary).splitlines()
    assert lines[0] == "| method | psnr ↑ | lpips_alex_v0.1 ↓ |"
    assert lines[2:] == ["| one | 20.0 | **0.200** |", "| two | **30.0** | 0.300 |"]


def test_photos_are_ordered_from_worst_to_best():
    import numpy as np

    values = np.array([3.0, np.nan, 1.0, 2.0])
    assert order(values, "psnr") == [2, 3, 0] and order(values, "lpips_alex_v0.1") == [0, 3, 2]


@pytest.fixture
def folders(tmp_path, draw_face):
    for folder, noise in (("photos", 0), ("ours", 1)):
        (tmp_path / folder).mkdir()
        for i in range(5):
            draw_face(i + noise * 100).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def matched(folders, methods=None, **protocol):
    methods = methods or {"ours": str(folders / "ours")}
    return match(folders / "photos", methods, Protocol(**SMALL | protocol), folders / "made")


def test_photos_are_matched_by_name_and_those_without_results_are_dropped(folders):
    (folders / "ours" / "3.png").unlink()
    with pytest.warns(UserWarning, match="1 of 5 photos lack"):
        pairs = matched(folders, {"ours": str(folders / "ours"), "again": "plain"})
    assert [pair.name for pair in pairs] == ["0", "1", "2", "4"]
    assert pairs[0].results["ours"].name == "0.png"
    assert pairs[0].results["again"] == folders / "made" / "again" / "0.png"


def test_output_folders_of_the_edit_stage_are_accepted(folders):
    (folders / "edit").mkdir()
    (folders / "ours").rename(folders / "edit" / "result")
    (folders / "edit" / "edits.json").write_text("{}")
    assert len(matched(folders, {"ours": str(folders / "edit")})) == 5


def test_unusable_folders_are_errors(folders, draw_face):
    with pytest.raises(UserError, match="no folder"):
        matched(folders, {"ours": str(folders / "nowhere")})
    (folders / "empty").mkdir()
    with pytest.raises(UserError, match="contains no images"):
        matched(folders, {"ours": str(folders / "empty")})
    draw_face(0).save(folders / "empty" / "other.png")
    with pytest.raises(UserError, match=r"photos are named like '0\.png', pictures of ours like 'other\.png'"):
        matched(folders, {"ours": str(folders / "empty")})
    with pytest.raises(UserError, match="pictures are 48 px, the protocol measures at 64"):
        matched(folders, resolution=64)
    with pytest.raises(UserError, match="no methods"):
        match(folders / "photos", {}, Protocol(**SMALL), folders / "made")


def test_unusable_pictures_are_errors(folders, draw_face):
    draw_face(0, 40).save(folders / "ours" / "2.png")
    with pytest.raises(UserError, match=r"mixed sizes: 0\.png is 48x48, 2\.png is 40x40"):
        matched(folders)
    (folders / "ours" / "2.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"2\.png is not an image"):
        matched(folders)
    for i in range(5):
        draw_face(0).resize((48, 40)).save(folders / "ours" / f"{i}.png")
    with pytest.raises(UserError, match=r"must be square, 0\.png is 48x40"):
        matched(folders)
    draw_face(0).save(folders / "ours" / "2.jpg")
    with pytest.raises(UserError, match=r"2\.jpg\' and \'2\.png\' of the pictures of ours both belong"):
        matched(folders)
