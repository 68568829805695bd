"""A visitor's photo and edits without the web page, and the settings files that repeat them."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from oodgan.app.session import UNDO, Controls, numbered
from oodgan.app.studio import Studio
from oodgan.data.detect import Face
from oodgan.editing import Editor, settings
from oodgan.errors import UserError
from oodgan.launch import compose

NAMES = ("smile", "age")
MOVED = Controls(0, {"smile": 0.15, "age": -1.0}, {"strength": 0.5, "feather": 0.02})


def read(text: str, tmp_path: Path, *words: str) -> DictConfig:
    """Returns the configuration of `oodgan edit` with a settings file of this text."""
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return settings.read(compose("edit", ["input=me.png", f"settings='{file}'", *words]))


def test_a_face_is_inverted_once_and_views_have_unguessable_paths(studio: Studio, crop: Path) -> None:
    session = studio.open(crop, aligned=True)
    before = studio.editor.inverter.calls  # type: ignore[attr-defined]
    first, second = studio.edit(session, Controls(0, {"smile": 1.0})), studio.edit(session, MOVED)
    shown = [studio.views(first), studio.views(second)]
    assert studio.editor.inverter.calls == before + 1  # type: ignore[attr-defined]
    assert not torch.equal(first.tensors["result"], second.tensors["result"])
    folders = {Path(path).parent for views in shown for path in views.values()}
    assert len(folders) == 2 and all(len(folder.parent.name) == 32 for folder in folders)
    assert Image.open(shown[0]["mask"]).size == (32, 32)


@pytest.mark.network
def test_auto_chooses_one_strength_and_keeps_the_others(studio: Studio, crop: Path) -> None:
    assert not studio.can_choose("smile"), "these directions have no calibration"
    editor = copy.copy(studio.editor)
    notes = {"range": [-1.5, 1.5], "samples": {"strength": [1.0, 1.5], "move": [0.5, 0.7]}}
    editor.bank = dataclasses.replace(editor.bank, calibration={"smile": notes})
    measured = Studio(editor, studio.cfg, studio.folder)
    assert measured.can_choose("smile") and not measured.can_choose("age")
    session, controls = measured.open(crop, aligned=True), Controls(0, {"smile": 0.0, "age": 0.5}, studio.mask)
    choice = measured.choose(session, controls, "smile")
    assert choice.target == 0.5 and 0 <= choice.strength <= 1.5
    expected = editor.begin(measured.subject(session, 0), editor.checked({"smile": "auto", "age": 0.5}))
    assert choice == expected.chosen["smile"] and expected.edits["age"] == 0.5


def test_mask_controls_affect_one_edit_only(studio: Studio, crop: Path) -> None:
    session, own = studio.open(crop, aligned=True), studio.mask
    full = studio.edit(session, Controls(0, {"smile": 1.0}, own)).tensors["mask"]
    half = studio.edit(session, Controls(0, {"smile": 1.0}, {**own, "strength": 0.5})).tensors["mask"]
    assert torch.allclose(half, full / 2, atol=1e-6) and full.max() > 0
    assert studio.mask == own


def test_a_drawn_mask_covers_the_whole_photo_and_is_restored_with_the_settings(
    studio: Studio, crop: Path, tmp_path: Path
) -> None:
    session, controls = studio.open(crop, aligned=True), Controls(0, {"smile": 1.0}, studio.mask)
    with pytest.raises(UserError, match="No mask is in use"):
        studio.mask_file(session, controls, "pasted", "png")
    with pytest.raises(UserError, match="Nothing is painted"):
        studio.drawn(session, 0, Image.new("L", (512, 512)), "replace")
    strokes = Image.new("L", (512, 512))
    strokes.paste(255, (0, 0, 256, 512))
    session.own = studio.drawn(session, 0, strokes, "replace")
    assert session.own.image.size == (48, 48) and session.own.image.getpixel((8, 8)) == 255
    assert session.own.image.getpixel((40, 8)) == 0
    drawn = studio.edit(session, controls).tensors["mask"]
    assert float(drawn[..., 8].min()) > 0.95 and not drawn[..., 26:].any()
    mask, made = (Path(write(session, controls, "pasted", "png")) for write in (studio.mask_file, studio.settings))
    assert mask.name == "me_mask.png"
    cfg = read(made.read_text(), tmp_path)
    assert (cfg.mask, cfg.mask_mode) == (str(tmp_path / "me_mask.png"), "replace")
    assert read("mask: /etc/passwd", tmp_path).mask == str(tmp_path / "passwd")
    again = studio.editor.edit(crop, {"smile": 1.0}, aligned=True, mask=mask, mask_mode="replace").tensors["mask"]
    assert torch.equal(again, drawn)


def test_changes_are_undone_one_at_a_time(studio: Studio, crop: Path) -> None:
    session = studio.open(crop, aligned=True)
    assert session.undo() is None
    for numbers in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.5)):
        session.record(numbers)
    assert session.undo() == (1.0, 0.0) and session.undo() == (0.0, 0.0) and session.undo() is None
    for i in range(200):
        session.record((float(i), 0.0))
    assert len(session.history) <= UNDO + 1


def test_an_edit_of_strength_0_returns_the_photo(studio: Studio, crop: Path) -> None:
    session = studio.open(crop, aligned=True)
    controls = Controls(0, dict.fromkeys(NAMES, 0.0), studio.mask)
    path = studio.picture(session, controls, "pasted", "png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(crop)))
    assert controls.edits == {"smile": 0.0}


def test_wrong_uploads_are_reported_in_one_line_without_their_folder(
    studio: Studio, tmp_path: Path, crop: Path
) -> None:
    text, cut = tmp_path / "notes.txt", tmp_path / "cut.png"
    text.write_text("hello")
    cut.write_bytes(crop.read_bytes()[:200])
    for path in (text, cut):
        with pytest.raises(UserError) as error:
            studio.open(path, aligned=True)
        assert path.name in str(error.value) and str(tmp_path) not in str(error.value)
        assert "\n" not in str(error.value)


def test_photos_with_damaged_exif_or_long_names_are_edited(studio: Studio, crop: Path, tmp_path: Path) -> None:
    """Damaged and overlong EXIF data, and file names as long as the file system allows."""
    exif = Image.Exif()
    exif[0x010F], exif[0x9286] = "ACME", "prompt " * 12_000
    odd = {"damaged.jpg": b"Exif\0\0no tiff", "repr.png": b"b'Exif\\x00'", "long.png": exif.tobytes(),
           f"{'n' * 245}.png": exif.tobytes()}  # fmt: skip
    for name, data in odd.items():
        path = tmp_path / name
        Image.open(crop).save(path, exif=data[:60_000] if path.suffix == ".jpg" else data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            session = studio.open(path, aligned=True)
            written = [Path(studio.picture(session, MOVED, "pasted", form)) for form in ("png", "jpg", "webp")]
            written.append(Path(studio.settings(session, MOVED, "pasted", "png")))
        assert all(path.is_file() and len(path.name) <= 255 for path in written), name
        assert caught, "a warning names the dropped EXIF data"
        if data is odd["long.png"]:
            for path in written[:3]:
                with Image.open(path) as picture:
                    assert picture.getexif()[0x010F] == "ACME"


def test_a_face_number_out_of_range_is_an_error(studio: Studio, crop: Path) -> None:
    session = studio.open(crop, aligned=True)
    session.faces = [Face((0, 0, 20, 20), 1.0, np.zeros((5, 2)))]
    with pytest.raises(UserError, match="1 face"):
        studio.subject(session, 4)


def test_each_face_is_numbered_in_the_photo(studio: Studio, crop: Path) -> None:
    session = studio.open(crop, aligned=True)
    session.faces = [Face((5, 5, 40, 40), 1.0, np.zeros((5, 2)))]
    picture = numbered(session, side=48)
    assert picture.size == (48, 48)
    assert picture.getpixel((7, 7)) != session.photo.image.getpixel((7, 7))


def test_a_settings_file_restores_all_settings(studio: Studio, crop: Path, tmp_path: Path) -> None:
    text = Path(studio.settings(studio.open(crop, aligned=True), MOVED, "pasted", "webp")).read_text()
    assert text.startswith("# ") and "oodgan edit PHOTO settings=" in text
    cfg = read(text, tmp_path)
    assert cfg.edits == {"smile": 0.15, "age": -1.0} and cfg.aligned is True and str(cfg.face) == "0"
    assert cfg.save == ["pasted"] and cfg.format == "webp"
    assert cfg.diffcam.mask.strength == 0.5 and cfg.diffcam.mask.feather == 0.02
    for part in set(settings.PARTS) - {"diffcam"}:
        expected = OmegaConf.to_container(studio.cfg[part], resolve=True) if studio.cfg[part] else studio.cfg[part]
        result = OmegaConf.to_container(cfg[part], resolve=True) if cfg[part] else cfg[part]
        for stripped in (expected, result):
            if isinstance(stripped, dict):
                stripped.pop("fit", None)
        assert result == expected


def test_a_settings_file_restores_the_openvino_backend(
    studio: Studio, words: list[str], crop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the export extra is not installed")
    from oodgan.export import backend

    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path / "cache"))
    cfg = compose("serve", [*words, "backend=openvino"])
    fast = copy.copy(studio.editor)
    fast.synthesis = backend.synthesis(fast.generator, cfg=cfg.generator)
    theirs = Studio(fast, cfg, tmp_path / "scratch")
    session = theirs.open(crop, aligned=True)
    drawn = theirs.edit(session, MOVED).tensors["edited"]
    plain = studio.edit(studio.open(crop, aligned=True), MOVED).tensors["edited"]
    assert torch.allclose(drawn, plain, atol=1e-3) and not torch.equal(drawn, plain)
    assert read(Path(theirs.settings(session, MOVED, "result", "png")).read_text(), tmp_path).backend == "openvino"
    assert read(Path(studio.settings(session, MOVED, "result", "png")).read_text(), tmp_path).backend == "torch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a settings file"),
        ("{edits: {smile: 1}", "is damaged or has another format"),
        ("edits: {smile: 1}\noutput: /etc\n", "unknown key"),
        ("generator: {_target_: os.system, command: ls}\n", "os.system"),
        ("inverter: {refine: [{_target_: subprocess.run}]}\n", "subprocess.run"),
        ("diffcam: {weights: diffcam_light, weights_sha256: 'abc'}\n", "have another hash than in this file"),
    ],
)
def test_invalid_settings_files_are_one_line_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text, tmp_path)


def test_the_error_for_a_missing_settings_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml"):
        settings.read(compose("edit", ["settings=gone.yaml"]))


def test_the_command_line_overrides_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_with(*words: str) -> Any:
        monkeypatch.setattr(settings, "_command_line_keys", lambda: {word.partition("=")[0] for word in words})
        return read("edits: {smile: 1.0}\nformat: webp\ncompose: {mode: paper}\n", tmp_path, *words)

    assert read_with("edits={age: 1.0}").edits == {"age": 1.0}
    assert read_with("edits={age: 1.0}").format == "webp"
    with pytest.raises(UserError, match="compose"):
        read_with("compose=poisson")


@pytest.mark.slow
@pytest.mark.network
def test_each_quality_inverts_a_face_once_and_its_settings_file_restores_it(tmp_path: Path, crop: Path) -> None:
    cfg = compose("serve", ["deghoster=none"])
    studio = Studio(Editor.from_config(cfg), cfg, tmp_path / "scratch")
    assert studio.quality == "feature"
    session = studio.open(crop, aligned=True)
    controls = Controls(0, {"smile": 1.0}, studio.mask, "fast")
    fast = studio.edit(session, controls)
    assert fast.tensors["inverted"] is studio.edit(session, controls).tensors["inverted"]
    with pytest.raises(UserError, match="fast, feature, best"):
        studio.edit(session, Controls(0, {"smile": 1.0}, quality="fastest"))
    read_back = read(Path(studio.settings(session, controls, "result", "png")).read_text(), tmp_path)
    assert (read_back.inverter.residual.passes, read_back.inverter.residual.exact) == (1, 0)
    assert read_back.inverter.residual.weights == "feature_light" and read_back.inverter.refine.steps == 0


def test_an_inverter_without_a_residual_has_no_quality_setting(studio: Studio, crop: Path) -> None:
    assert studio.quality == ""
    with pytest.raises(UserError, match="offers none"):
        studio.edit(studio.open(crop, aligned=True), Controls(0, {"smile": 1.0}, quality="best"))
