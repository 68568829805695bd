"""Video frames in the edit stage: order, names, sizes, gaps, several faces, and steadiness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.data.detect import detect_faces
from oodgan.errors import UserError
from oodgan.inversion.value import Inversion
from oodgan.stages._frames import natural, place, smoothed
from oodgan.stages._photos import Job, find

EDIT = ("edits={smile: 1.0}", "frames=true")


def frame(astronaut: Image.Image, x: int, noise: int = 0) -> Image.Image:
    """The portrait pasted at column x of a wider grey picture."""
    picture = Image.new("RGB", (400, 300), (120, 120, 120))
    picture.paste(astronaut.resize((280, 280)), (x, 5))
    if noise:
        rng = np.random.default_rng(noise)
        shaken = np.asarray(picture) + rng.normal(0, 10, (300, 400, 3))
        picture = Image.fromarray(shaken.clip(0, 255).astype(np.uint8))
    return picture


def test_frames_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("f10", "f9", "f2b", "f2", "a/f11", "a/f3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    jobs = natural(find([str(tmp_path)], tmp_path / "out").photos)
    assert [job.name for job in jobs] == ["a/f3", "a/f11", "f2", "f2b", "f9", "f10"]


@pytest.mark.network
def test_whole_frames_are_written_under_their_own_names(
    oodgan: Callable[..., int], tmp_path: Path, astronaut: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frames").mkdir()
    for t in range(4):
        frame(astronaut, 20 + 10 * t).save(tmp_path / "frames" / f"shot{t + 8}.png")
    Image.new("RGB", (400, 300), (1, 2, 3)).save(tmp_path / "frames" / "shot12.png")
    (tmp_path / "frames" / "shot13.png").write_bytes(b"\x89PNG broken")
    assert oodgan("frames", *EDIT, "save=[mask]", "window=3", aligned=False) == 1
    output = capsys.readouterr()
    assert "not detected in 2 of 6 frames" in output.err and "5 edited, 0 skipped as finished, 1 failed" in output.out
    order = [line.split("/")[-1] for line in output.err.splitlines() if line.startswith("[")]
    assert order == [f"shot{n}.png" for n in range(8, 14)]
    names = {f"shot{n}.png" for n in range(8, 13)}
    assert {p.name for p in Path("out/pasted").iterdir()} == names
    assert {p.name for p in Path("out/mask").iterdir()} == names - {"shot12.png"}, "a frame without a face has no mask"
    before, after = (np.asarray(Image.open(f"{place}/shot9.png")) for place in ("frames", "out/pasted"))
    assert before.shape == after.shape and not np.array_equal(before, after)
    assert np.array_equal(before[:, 350:], after[:, 350:])
    assert Image.open("out/pasted/shot12.png").getpixel((5, 5)) == (1, 2, 3)
    entries = json.loads(Path("out/edits.json").read_text())["photos"]
    assert entries["shot12"]["faces"] == 0 and entries["shot8"]["tracks"] == [None]
    stamp = Path("out/pasted/shot9.png").stat().st_mtime_ns
    frame(astronaut, 40).save("frames/shot13.png")
    assert oodgan("frames", *EDIT, "save=[mask]", "window=3", aligned=False) == 0
    assert "1 edited, 5 skipped" in capsys.readouterr().out and Path("out/pasted/shot9.png").stat().st_mtime_ns == stamp
    assert oodgan("frames", *EDIT, "save=[mask]", "window=5", aligned=False) == 2
    assert "frames=3 instead of 5" in capsys.readouterr().err


@pytest.mark.network
def test_smoothed_alignment_is_steadier_and_bridges_a_frame_without_a_face(
    tmp_path: Path, astronaut: Image.Image
) -> None:
    message: list[str] = []
    jobs, alone = [], {}
    for t in range(9):
        picture = frame(astronaut, 20 + 4 * t, noise=t + 1)
        alone[t] = detect_faces(picture)[0].landmarks
        if t == 4:
            picture.paste((0, 0, 0), (0, 0, 400, 300))
        picture.save(tmp_path / f"{t}.png")
        jobs.append(Job(tmp_path / f"{t}.png", str(t)))
    faces = place(jobs, "largest", 7, message.append)
    assert len(faces) == 9 and all(list(result) == [0] for result in faces.values())
    steady = np.array([faces[job.path][0].landmarks for job in jobs])
    raw = np.array([alone[t] for t in range(9)])
    shake = [np.abs(np.diff(path, n=2, axis=0)).mean() for path in (steady, raw)]
    assert shake[0] < 0.6 * shake[1]
    assert np.abs(steady - raw).max() < 4
    with pytest.raises(UserError, match="no face found in any frame"):
        place(jobs[4:5], "largest", 7, message.append)


@pytest.mark.network
def test_several_faces_keep_their_numbers_over_a_gap(
    oodgan: Callable[..., int], tmp_path: Path, astronaut: Image.Image
) -> None:
    (tmp_path / "frames").mkdir()
    for t in range(3):
        picture = Image.new("RGB", (620, 300), (120, 120, 120))
        picture.paste(astronaut.resize((280, 280)), (0, 0))
        if t != 1:
            picture.paste(astronaut.resize((230, 230)), (380, 0))
        picture.save(tmp_path / "frames" / f"{t}.png")
    assert oodgan("frames", *EDIT, "face=all", "save=[photo]", "window=1", aligned=False) == 0
    photos = sorted(p.stem for p in Path("out/photo").iterdir())
    assert photos == ["0_face0", "0_face1", "1_face0", "1_face1", "2_face0", "2_face1"], (
        "the face is interpolated in the frame without it"
    )


@pytest.mark.network
def test_all_frames_of_a_clip_use_the_same_strength(
    oodgan: Callable[..., int], tmp_path: Path, astronaut: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    first, *others = [frame(astronaut, 20 + 6 * t) for t in range(3)]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others, duration=[40, 80, 120])
    assert oodgan("clip.gif", "edits={smile: +5sd}", aligned=False) == 0
    output = capsys.readouterr()
    assert output.err.count("strengths of all frames, chosen on 000001.png: smile") == 1 and "3 edited" in output.out
    entries = json.loads(Path("out/edits.json").read_text())["photos"].values()
    assert len({json.dumps(entry["sought"]) for entry in entries}) == 1
    with Image.open("out/clip.gif") as result:
        assert (result.n_frames, result.size) == (3, (400, 300))
    assert oodgan("clip.gif", "edits={smile: +5sd}", aligned=False) == 0
    assert "0 edited, 3 skipped" in capsys.readouterr().out
    first.save("photo.png")
    assert oodgan("input=[clip.gif, photo.png]", "edits={smile: 1}", aligned=False) == 2
    assert "is a video: edit it alone" in capsys.readouterr().err


def test_smoothed_inversions_change_less_between_frames() -> None:
    codes = torch.randn(7, 1, 3, 512, generator=torch.Generator().manual_seed(0))
    grids = torch.randn(7, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    raw = {i: Inversion(code, {8: grid}) for i, (code, grid) in enumerate(zip(codes, grids, strict=True))}
    same = smoothed(dict.fromkeys(range(5), raw[3]), here=0, window=5)
    assert torch.allclose(same.w_plus, codes[3]) and torch.allclose(same.residuals[8], grids[3])
    even = [smoothed({j: raw[j] for j in range(max(0, i - 2), min(7, i + 3))}, i, window=5) for i in range(7)]
    for before, after in ((codes, [x.w_plus for x in even]), (grids, [x.residuals[8] for x in even])):
        assert torch.stack(after).diff(dim=0).square().mean() < 0.4 * before.diff(dim=0).square().mean()


@pytest.mark.parametrize(
    ("words", "message"), [(("window=0",), "window=0"), (("steady=2.5",), "steady=2.5"), ((), "leave aligned=true out")]
)
def test_contradictory_settings_are_refused(
    words: tuple[str, ...], message: str, oodgan: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodgan("photos", *EDIT, *words, aligned=not words) == 2
    assert message in capsys.readouterr().err and not Path("out").exists()
