import json
import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from oodgan.errors import UserError
from oodgan.files import MANIFEST, hash_of, writing
from oodgan.tracking.artifacts import Manifest, hash_settings, require, up_to_date


def write(folder, settings_hash="m", **more):
    with writing(folder, replace=True) as temporary:
        (temporary / "weights").write_text("w")
        Manifest(stage="diffcam", config={"a": 1}, settings_hash=settings_hash, **more).save(temporary)


def test_an_artifact_is_written_completely_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), writing(tmp_path / "art") as temporary:
        (temporary / "half").write_text("x")
        assert not (tmp_path / "art").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_artifact_permissions_follow_the_umask(tmp_path):
    for mask, of_folder, of_file in ((0o022, 0o755, 0o644), (0o077, 0o700, 0o600)):
        before = os.umask(mask)
        try:
            with writing(tmp_path / str(mask)) as folder:
                save_file(
                    {"x": torch.zeros(1)}, folder / "weights.safetensors"
                )  # safetensors makes it readable by its owner only
        finally:
            os.umask(before)
        modes = [stat.S_IMODE((tmp_path / str(mask) / name).stat().st_mode) for name in ("", "weights.safetensors")]
        assert modes == [of_folder, of_file]


def test_an_existing_artifact_is_kept_unless_replaced(tmp_path):
    write(tmp_path / "art")
    with pytest.raises(UserError, match="exists already"), writing(tmp_path / "art"):
        pass
    with pytest.raises(RuntimeError), writing(tmp_path / "art", replace=True):
        raise RuntimeError
    assert (tmp_path / "art/weights").read_text() == "w"
    with writing(tmp_path / "art", replace=True) as temporary:
        (temporary / "new").write_text("n")
    assert [p.name for p in (tmp_path / "art").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["art"]


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    second = {"OODGAN_SPREAD": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in second.items():
        monkeypatch.setenv(name, value)
    write(tmp_path / "art")
    assert not (tmp_path / "art").exists()


def test_manifests_are_saved_and_loaded(tmp_path):
    write(tmp_path / "art", generator="g-1", directions=["smile"], seed=3, metrics={"acc": 0.5})
    result = Manifest.load(tmp_path / "art")
    assert (result.generator, result.directions, result.seed, result.metrics) == ("g-1", ["smile"], 3, {"acc": 0.5})
    assert result.files == ["weights"] and result.version and result.value_range == (-1.0, 1.0)
    (tmp_path / "art" / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="is damaged or has another format"):
        Manifest.load(tmp_path / "art")
    with pytest.raises(UserError, match="no such folder"):
        Manifest.load(tmp_path / "none")


def test_require_names_the_expected_and_the_actual_value():
    manifest = Manifest(stage="diffcam", generator="g-1", directions=["smile", "beard"])
    assert require(manifest, "diffcam", "g-1", ["smile", "beard"]) is manifest
    with pytest.raises(UserError, match=r"g-1.*g-2"):
        require(manifest, generator="g-2")
    with pytest.raises(UserError, match=r"smile, beard, but the directions are beard, smile"):
        require(manifest, directions=["beard", "smile"])
    with pytest.raises(UserError, match=r"'diffcam'.*'deghost'"):
        require(manifest, stage="deghost")


def test_up_to_date_checks_settings_inputs_and_missing_files(tmp_path):
    (tmp_path / "input").write_text("1")
    settings_hash = hash_settings({"lr": 1}, {"input": tmp_path / "input"})
    write(tmp_path / "art", settings_hash)
    assert up_to_date(tmp_path / "art", settings_hash)
    assert not up_to_date(tmp_path / "art", hash_settings({"lr": 2}, {"input": tmp_path / "input"}))
    (tmp_path / "input").write_text("2")
    assert hash_settings({"lr": 1}, {"input": tmp_path / "input"}) != settings_hash
    manifest = tmp_path / "art" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"settings_hash"', '"fingerprint"'))  # the key of earlier versions
    assert up_to_date(tmp_path / "art", settings_hash)
    (tmp_path / "art/weights").unlink()
    assert not up_to_date(tmp_path / "art", settings_hash)


def test_the_hash_of_an_artifact_depends_on_its_manifest(tmp_path):
    write(tmp_path / "a")
    before = hash_of(tmp_path / "a")
    values = json.loads((tmp_path / "a" / MANIFEST).read_text())
    (tmp_path / "a" / MANIFEST).write_text(json.dumps({**values, "seed": 9}))
    assert hash_of(tmp_path / "a") != before
    with pytest.raises(UserError, match="no such file"):
        hash_of(tmp_path / "missing")
