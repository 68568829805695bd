"""The edit stage on files, folders and globs: results, skipped photos, refusals and messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodgan.directions.probes import Probes
from oodgan.editing import Editor
from oodgan.editing.strength import Search
from oodgan.errors import UserError
from oodgan.stages._photos import find


def ledger() -> dict:
    return json.loads(Path("out/edits.json").read_text())


def test_results_of_a_folder_are_named_by_photo_and_recorded(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodgan("photos", "edits={smile: 1.0}", "save=[pasted,mask]") == 0
    written = sorted(p.relative_to("out").as_posix() for p in Path("out").rglob("*.png"))
    assert written == sorted(f"{kind}/{name}.png" for kind in ("result", "pasted", "mask") for name in ("a", "more/b"))
    assert Image.open("out/result/a.png").size == (32, 32)
    assert Image.open("out/pasted/more/b.png").size == (64, 64)
    assert Image.open("out/mask/a.png").mode == "L"
    record = ledger()
    assert record["failures"] == {} and set(record["photos"]) == {"a", "more/b"}
    entry = record["photos"]["a"]
    assert entry["finished"] and entry["faces"] == 1 and set(entry["seconds"]) > {"align", "invert", "edit"}
    assert record["settings"][entry["settings"]]["edits"] == {"smile": 1.0}
    assert "2 edited, 0 skipped" in capsys.readouterr().out


def test_a_second_run_skips_finished_photos_and_adds_new_kinds_of_pictures(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oodgan("photos/a.png", "edits={smile: 1.0}")
    before = Path("out/result/a.png").stat().st_mtime_ns
    assert oodgan("photos/a.png", "edits={smile: 1.0}") == 0
    assert "0 edited, 1 skipped" in capsys.readouterr().out
    assert Path("out/result/a.png").stat().st_mtime_ns == before
    assert oodgan("photos/a.png", "edits={smile: 1.0}", "save=[coarse]") == 0
    assert Path("out/coarse/a.png").is_file()


def test_results_of_other_settings_are_not_overwritten(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oodgan("photos/a.png", "edits={smile: 1.0}")
    kept = Path("out/result/a.png").read_bytes()
    assert oodgan("photos/a.png", "edits={smile: 0.5}") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "edits={smile: 1.0} instead of {smile: 0.5}" in message and "replace=true" in message
    assert Path("out/result/a.png").read_bytes() == kept
    assert oodgan("photos/a.png", "edits={smile: 0.5}", "replace=true") == 0
    assert Path("out/result/a.png").read_bytes() != kept


def test_a_file_not_written_by_oodgan_is_not_overwritten(oodgan: Callable[..., int], photos: Path) -> None:
    Path("out/result").mkdir(parents=True)
    Path("out/result/a.png").write_text("mine")
    assert oodgan("photos/a.png", "edits={smile: 1.0}") == 2
    assert Path("out/result/a.png").read_text() == "mine"


def test_an_unfinished_photo_is_edited_again(oodgan: Callable[..., int], photos: Path) -> None:
    oodgan("photos/a.png", "edits={smile: 1.0}")
    record = ledger()
    record["photos"]["a"]["finished"] = False
    Path("out/edits.json").write_text(json.dumps(record))
    assert oodgan("photos/a.png", "edits={smile: 1.0}") == 0
    assert ledger()["photos"]["a"]["finished"]


def test_failures_are_listed_counted_and_retried(
    oodgan: Callable[..., int], photos: Path, draw_face: Callable[..., Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG not really")
    assert oodgan("photos", "edits={smile: 1.0}") == 1
    out = capsys.readouterr().out
    assert "2 edited, 0 skipped as finished, 1 failed" in out
    assert list(ledger()["failures"]) == ["photos/broken.png"]
    draw_face(7).save(photos / "broken.png")
    assert oodgan("photos", "edits={smile: 1.0}") == 0
    assert ledger()["failures"] == {}


def test_a_failing_single_photo_is_an_error(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"nothing")
    assert oodgan("photos/broken.png", "edits={smile: 1.0}") == 2
    assert "error: photos/broken.png is not an image" in capsys.readouterr().err


def test_lists_of_strengths_give_a_grid_and_single_pictures(oodgan: Callable[..., int], photos: Path) -> None:
    assert oodgan("photos/a.png", "edits={age: [-1, 1], smile: [0, 0.5, 1]}") == 0
    parts = sorted(p.stem for p in Path("out/result").iterdir())
    assert len(parts) == 6 and "a_age-1_smile+0.5" in parts
    grid = Image.open("out/grid/a.png")
    assert grid.width > grid.height > 384
    one, other = (np.asarray(Image.open(f"out/result/a_age{s}_smile+1.png")) for s in ("-1", "+1"))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_metadata_and_colour_profile_are_kept(
    suffix: str, oodgan: Callable[..., int], photos: Path, draw_face: Callable[..., Image.Image]
) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a holiday", 6
    draw_face(4, size=40).resize((60, 40)).save(photos / "turned.jpg", exif=exif, icc_profile=profile)
    assert oodgan("photos/turned.jpg", "edits={smile: 1.0}", "save=[pasted,mask]", f"format={suffix}") == 0
    for kind in ("result", "pasted"):
        image = Image.open(f"out/{kind}/turned.{suffix}")
        assert image.getexif()[0x010E] == "a holiday" and 0x0112 not in image.getexif()
        assert image.info["icc_profile"] == profile
    assert Image.open(f"out/pasted/turned.{suffix}").size == (40, 60)


def test_the_error_for_an_unknown_attribute_suggests_the_nearest(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodgan("photos/a.png", "edits={smlie: 1.0}") == 2
    assert "did you mean 'smile'?" in capsys.readouterr().err
    assert not Path("out").exists()


def test_inputs_are_files_folders_and_globs(
    photos: Path, tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    draw_face(3).save(photos / "a.webp")
    (photos / ".hidden.png").write_bytes(b"")
    out = photos / "out"
    (out / "result").mkdir(parents=True)
    draw_face(3).save(out / "result" / "a.png")
    assert [job.name for job in find([str(photos)], out).photos] == ["a_png", "a_webp", "more/b", "out/result/a"]
    (out / "edits.json").write_text("{}")
    assert [job.name for job in find([str(photos)], out).photos] == ["a_png", "a_webp", "more/b"]
    assert [job.name for job in find([f"{photos}/**/*.jpg", f"{photos}/a.png"], out).photos] == ["b", "a"]
    for wrong, message in ((f"{photos}/*.gif", "no photo matches"), ("nowhere", "no such file or folder: nowhere")):
        with pytest.raises(UserError, match=message.replace("*", r"\*")):
            find([wrong], out)
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match="no photo in folder"):
        find([str(photos / "empty")], out)
    (photos / "other").mkdir()
    draw_face(3).save(photos / "other" / "b.jpg")
    with pytest.raises(UserError, match="would both be written to b"):
        find([f"{photos}/**/*.jpg"], out)


@pytest.mark.network
def test_a_searched_strength_is_recorded_and_printed(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("photos", "edits={smile: +5sd, age: [0, 0.5]}")
    assert oodgan(*words) == 0
    output = [line for line in capsys.readouterr().err.splitlines() if "of +5.00 sd" in line]
    assert len(output) == 2 and all(line.startswith("  smile ") and "identity" in line for line in output), (
        "one line per photo"
    )
    record = ledger()
    entry = record["photos"]["a"]
    assert [s["edits"]["age"] for s in entry["sought"]] == [0.0, 0.5] and entry["seconds"]["strength"] > 0
    for searched in entry["sought"]:
        choice = searched["chosen"]["smile"]
        assert choice["strength"] == searched["edits"]["smile"] and choice["target"] == 5.0
        assert choice["reached"] or choice["reason"]
    settings = record["settings"][entry["settings"]]
    assert settings["edits"]["smile"] == "+5sd" and len(settings["search"]["weights_sha256"]) == 64
    assert oodgan(*words) == 0
    assert "0 edited, 2 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("{smile: autoo}", "strength 'autoo' of 'smile' (did you mean 'auto'?)"),
        ("{smile: +1xd}", "strength '+1xd' of 'smile' (did you mean '+1sd'?)"),
        ("{smile: [auto, 1]}", "edits.smile: 'auto' in a list of strengths"),
        ("{age: auto}", "unknown attribute for auto"),
        ("{smile: auto}", "does not record the change at strength 1"),
    ],
)
def test_impossible_searches_are_one_line_errors(
    edits: str, message: str, oodgan: Callable[..., int], small_editor: Editor, photos: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch

    search = Search()
    search.probes = Probes(("smile",), torch.ones(1, 1), torch.zeros(1), {"smile": 1.0})
    monkeypatch.setattr(small_editor, "search", search)
    assert oodgan("photos", f"edits={edits}") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert not Path("out").exists()


def test_a_given_mask_is_used_and_recorded_in_the_settings(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = np.zeros((48, 48), np.uint8)
    drawn[:, 24:] = 255
    Image.fromarray(drawn).save("where.png")
    words = ["photos/a.png", "edits={smile: 1.0}", "save=[mask]"]
    assert oodgan(*words, "mask=where.png", "mask_mode=replace") == 0
    mask = np.asarray(Image.open("out/mask/a.png"))
    assert mask[:, :15].max() == 0 and mask[:, 17:].min() == 255
    assert oodgan(*words) == 2  # results with another mask are not overwritten
    assert oodgan(*words, "mask=nowhere.png") == 2
    assert "mask=nowhere.png: there is no such file" in capsys.readouterr().err
    assert oodgan(*words, "mask=where.png", "mask_mode=add") == 2
    assert "unknown mask_mode 'add'; known: multiply, replace" in capsys.readouterr().err


def test_edits_can_be_given_in_words(
    oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodgan("photos/a.png", "--ask", "slightly younger, with a big smile") == 0
    assert "edits={age: -0.5, smile: 1.5}" in capsys.readouterr().err
    record = ledger()
    assert record["settings"][record["photos"]["a"]["settings"]]["edits"] == {"age": -0.5, "smile": 1.5}
    assert oodgan("photos/a.png", "edits={age: -0.5, smile: 1.5}") == 0
    assert "0 edited, 1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ask=a smile and a hat"], "unknown word 'hat'"),
        (["--ask", "bald"], "unknown direction 'bald'"),
        (["--ask", "a smile", "edits={age: 1}"], "edits and ask: give one of them"),
    ],
)
def test_invalid_edits_in_words_are_one_line_errors(
    words: list[str], message: str, oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodgan("photos/a.png", "output=out", *words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert not Path("out").exists()
