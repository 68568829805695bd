"""Realistic input: photos of every mode, damaged files, circular links, and killed runs."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.files import replacing, sweep
from oodgan.stages._photos import find

EDIT = "edits={smile: 1.0}"


@pytest.mark.network
def test_photos_of_every_mode_are_edited(
    oodgan: Callable[..., int], tmp_path: Path, astronaut: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "modes"
    folder.mkdir()
    small = astronaut.resize((256, 256))
    small.convert("L").save(folder / "grey.png")
    small.convert("CMYK").save(folder / "cmyk.jpg")
    small.convert("P").save(folder / "palette.png")
    veiled = small.convert("RGBA")
    veiled.putalpha(210)
    veiled.save(folder / "alpha.png")
    grey = np.asarray(small.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "sixteen.png")
    astronaut.crop((0, 0, 512, 300)).resize((8200, 6100)).save(folder / "huge.jpg", quality=80)
    assert oodgan("modes", EDIT, "save=[pasted]", "format=jpg", aligned=False) == 0
    assert "6 edited" in capsys.readouterr().out
    for source in folder.iterdir():
        pasted = Image.open(f"out/pasted/{source.stem}.jpg")
        assert pasted.size == Image.open(source).size and pasted.mode == "RGB", source.name


@pytest.mark.network
def test_uneditable_inputs_are_one_line_errors(
    oodgan: Callable[..., int], tmp_path: Path, astronaut: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    astronaut.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:9000])
    Image.new("RGB", (300, 200), (200, 90, 90)).save(folder / "empty_room.png")
    (folder / "text.png").write_text("hello")
    Image.new("1", (11_000, 11_000)).save(folder / "bomb.png")
    astronaut.resize((200, 200)).save(folder / "tiny.png")
    assert oodgan("bad", EDIT, aligned=False) == 1
    output = capsys.readouterr()
    assert "1 edited, 0 skipped as finished, 4 failed" in output.out
    reasons = {Path(path).name: why for path, why in json.loads(Path("out/edits.json").read_text())["failures"].items()}
    expected = {"cut.jpg": "cannot be read", "empty_room.png": "no face", "text.png": "not an image", "bomb.png": "too"}
    assert set(reasons) == set(expected)
    for name, words in expected.items():
        assert words in reasons[name] and "\n" not in reasons[name]
        assert f"  failed: {reasons[name]}" in output.err.splitlines()
    assert "note: the face is only" in output.err and "px wide" in output.err


def test_circular_links_are_followed_once(tmp_path: Path, draw_face: Callable[..., Image.Image]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    draw_face(1).save(folder / "a.png")
    (folder / "again").symlink_to(folder)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "nowhere.png").symlink_to(tmp_path / "none.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    for inputs in ([str(folder)], [f"{folder}/**/*.png"], [f"{folder}/*.png"]):
        assert [job.name for job in find(inputs, tmp_path / "out").photos] == ["a"], (
            "a photo is listed once, however it is linked"
        )


def test_a_name_may_contain_an_equals_sign_and_brackets(oodgan: Callable[..., int], photos: Path) -> None:
    for name in ("a=b.png", "c [1], 'd'.png"):
        (photos / "a.png").rename(photos / name)
        assert oodgan(f"photos/{name}", EDIT) == 0
        assert Path(f"out/result/{name}").is_file()
        (photos / name).rename(photos / "a.png")


def test_killed_runs_leave_no_partial_files(
    oodgan: Callable[..., int], tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    (tmp_path / "many").mkdir()
    for i in range(6):
        draw_face(i, size=64).save(tmp_path / "many" / f"{i}.png")
    begun = time.monotonic()
    assert oodgan("many", EDIT, "save=[pasted]") == 0
    took = time.monotonic() - begun
    Path("out").rename("whole")

    def pictures() -> int:
        return len(list(Path("out").rglob("[!.]*.png")))

    rng, done = random.Random(0), []
    for _ in range(4):
        before = pictures()
        child = _forked(lambda: oodgan("many", EDIT, "save=[pasted]"))
        while pictures() <= before and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        time.sleep(took * rng.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for picture in Path("out").rglob("[!.]*.png"):
            Image.open(picture).load()
        if Path("out/edits.json").is_file():
            entries = json.loads(Path("out/edits.json").read_text())["photos"]
            done.append(sum(entry["finished"] for entry in entries.values()))
    assert done == sorted(done) and done[-1] > 0
    assert oodgan("many", EDIT, "save=[pasted]") == 0
    files = {p.relative_to("out") for p in Path("out").rglob("*") if p.is_file()}
    assert files == {p.relative_to("whole") for p in Path("whole").rglob("*") if p.is_file()}, (
        "the same files as without kills"
    )
    assert all((Path("out") / f).read_bytes() == (Path("whole") / f).read_bytes() for f in files if f.suffix == ".png")


def test_ctrl_c_keeps_finished_photos(
    oodgan: Callable[..., int], tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    (tmp_path / "many").mkdir()
    for i in range(60):
        draw_face(i, size=64).save(tmp_path / "many" / f"{i:02d}.png")
    child = _forked(lambda: oodgan("many", EDIT))
    while not len(list(Path("out/result").glob("*.png"))) >= 2:
        time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    entries = json.loads(Path("out/edits.json").read_text())["photos"]
    finished = {name for name, entry in entries.items() if entry["finished"]}
    assert finished and len(finished) < 60
    for picture in Path("out").rglob("[!.]*.png"):
        Image.open(picture).load()
    assert {p.stem for p in Path("out/result").glob("[!.]*.png")} >= finished


def _forked(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def test_only_temporary_files_of_ended_processes_are_deleted(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with replacing(tmp_path / "a.png") as one, replacing(tmp_path / "result" / "b.png") as other:
            one.write_text("")
            other.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    gone = list(tmp_path.rglob(".oodgan-*"))
    assert len(gone) == 2
    elsewhere = tmp_path / gone[0].name.replace(gone[0].name[8:14], "000000")  # of another machine on the same disk
    with replacing(tmp_path / "c.png") as mine:
        kept = [mine, elsewhere, tmp_path / ".hidden", tmp_path / "a.1.tmp"]
        for path in kept:
            path.write_text("")
        sweep(tmp_path)
        assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)


def test_a_note_counts_and_names_the_other_files_of_a_folder(
    oodgan: Callable[..., int], photos: Path, draw_face: Callable[..., Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    for ending, kind in (("jfif", "JPEG"), ("jpe", "JPEG"), ("gif", "GIF"), ("ppm", "PPM"), ("avif", "AVIF")):
        draw_face(5, 64).save(photos / f"photo_{ending}.{ending}", kind)
    for name in ("notes.txt", "clip.mp4", ".hidden.cr2"):
        (photos / name).write_text("")
    assert oodgan("photos", EDIT) == 0
    output = capsys.readouterr()
    assert "note: 2 other file(s) in photos left out: clip.mp4, notes.txt" in output.err
    assert "7 edited, 0 skipped" in output.out


def test_photos_with_damaged_metadata_are_edited(
    oodgan: Callable[..., int], photos: Path, draw_face: Callable[..., Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    draw_face(5, 64).save(photos / "bad.jpg", exif=b"Exif\0\0not a tiff")
    exif = Image.Exif()
    exif[0x010F], exif[0x010E] = "ACME", "prompt " * 12_000
    draw_face(6, 64).save(photos / "long.png", exif=exif)
    assert oodgan("photos", EDIT, "format=jpg") == 0
    output = capsys.readouterr()
    assert "4 edited" in output.out and "camera data (EXIF) of photos/bad.jpg are damaged" in output.err
    assert "a jpg holds at most 64 kB of camera data (EXIF): ImageDescription left out" in output.err
    notes = json.loads(Path("out/edits.json").read_text())["photos"]
    assert "damaged" in notes["bad"]["notes"][0] and "64 kB" in notes["long"]["notes"][0]
    with Image.open("out/result/long.jpg") as copy:
        assert copy.getexif()[0x010F] == "ACME"


def test_non_utf8_long_and_bracketed_names_are_handled(
    oodgan: Callable[..., int], photos: Path, draw_face: Callable[..., Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["caf\udce9.png", f"{'n' * 251}.png", f"{'写' * 83}.png", "a [bold red]b.png", ":smile:.png"]
    (photos / "a[").mkdir()
    for name in [*names, "a[/b].png"]:
        draw_face(5, 64).save(photos / name)
    for _ in range(2):
        assert oodgan("photos", EDIT, "edits={smile: [0, 1]}") == 0
    output = capsys.readouterr().out
    assert "0 edited, 8 skipped" in output and "[bold red]" in output and ":smile:" in output
    record = json.loads(Path("out/edits.json").read_bytes())
    assert set(record["photos"]) == {"a", "more/b", "a[/b]", *(name[:-4] for name in names)}
    results = sorted(Path("out/result").rglob("*.png"))
    assert len(results) == 16 and all(len(os.fsencode(path.name)) <= 255 for path in results)


def test_strengths_that_differ_in_the_last_digits_have_separate_files(oodgan: Callable[..., int], photos: Path) -> None:
    assert oodgan("photos/a.png", "edits={smile: [0.1234567, 0.1234568, 1, 1.0000001]}") == 0
    names = {path.name for path in Path("out/result").iterdir()}
    assert names == {f"a_smile+{s}.png" for s in ("0.1234567", "0.1234568", "1", "1.0000001")}
