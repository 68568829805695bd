"""Sets of photos by name and hash: only these are measured, and only if their hashes match."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oodgan.errors import UserError
from oodgan.evaluation.photo_set import PhotoSet
from oodgan.files import hash_of
from oodgan.stages import evaluate

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import config, folders  # noqa: F401  (folders is a fixture)

SETS = Path(__file__).resolve().parents[2] / "experiments" / "sets"


@pytest.fixture
def set_of_three(folders):  # noqa: F811
    photos = sorted((folders / "photos").iterdir())[1:4]
    lines = ["# three photos", *(f"{hash_of(photo)}  {photo.name}" for photo in photos)]
    (folders / "three.sha256").write_text("\n".join(lines) + "\n")
    return folders


def test_only_the_photos_of_the_set_are_measured(set_of_three, capsys):
    evaluate.run(config(set_of_three, set=str(set_of_three / "three.sha256")))
    held = json.loads((set_of_three / "out/metrics.json").read_text())
    assert held["count"] == 3 and held["set"]["name"] == "three"
    assert "3 photos of the set three" in (set_of_three / "out/table.md").read_text()
    assert "\n4," not in (set_of_three / "out/per_image.csv").read_text()
    (set_of_three / "three.sha256").write_text(
        "\n".join((set_of_three / "three.sha256").read_text().splitlines()[:3]) + "\n"
    )
    with pytest.raises(UserError, match="result of another evaluation"):
        evaluate.run(config(set_of_three, set=str(set_of_three / "three.sha256")))


def test_another_file_of_the_same_name_is_refused(set_of_three):
    (set_of_three / "photos/2.png").write_bytes((set_of_three / "photos/6.png").read_bytes())
    with pytest.raises(UserError, match=r"2\.png is not the photo of the set three: its sha256 is"):
        evaluate.run(config(set_of_three, set=str(set_of_three / "three.sha256")))
    assert not (set_of_three / "out").exists()
    (set_of_three / "photos/2.png").unlink()
    with pytest.raises(UserError, match=r"the set three has 3 photos, of which 2\.png is missing"):
        evaluate.run(config(set_of_three, set=str(set_of_three / "three.sha256")))


def test_the_command_reports_a_wrong_photo_as_a_one_line_error(set_of_three):
    (set_of_three / "photos/2.png").write_bytes((set_of_three / "photos/6.png").read_bytes())
    command = [sys.executable, "-m", "oodgan", "evaluate", "photos=photos", "set=three.sha256", "methods={near: near}"]
    done = subprocess.run(command, cwd=set_of_three, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: photos/2.png is not")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("abc  1.png\n", r"line 1 of .* is 'abc  1\.png'"),
        (f"{'0' * 64}  1.png\n" * 2, r"line 2 of .*: 1\.png is there twice"),
    ],
)
def test_invalid_set_files_are_errors(tmp_path, text, message):
    (tmp_path / "wrong.sha256").write_text(text)
    with pytest.raises(UserError, match=message):
        PhotoSet.read(tmp_path / "wrong.sha256")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        PhotoSet.read(tmp_path / "nowhere")


def test_sets_for_choosing_and_for_reporting_are_disjoint():
    for source in ("ood1024", "celebahq512"):
        choose, report = (PhotoSet.read(SETS / f"{source}-{name}.sha256") for name in ("choose", "report"))
        assert not set(choose.hashes) & set(report.hashes)
        assert not set(choose.hashes.values()) & set(report.hashes.values())


def test_the_script_reproduces_the_committed_sets(shared, tmp_path):
    script = (SETS / "make.py").read_text()
    (tmp_path / "make.py").write_text(script)
    data = shared / "data"
    places = [data / "celebahq512/images", data / "celebahq512/masks", data / "ood1024"]
    subprocess.run([sys.executable, tmp_path / "make.py", *places], check=True, timeout=300)
    for path in sorted(tmp_path.glob("*.sha256")):
        assert path.read_text() == (SETS / path.name).read_text(), path.name
    others = {f"{name}.sha256" for name in ("removal-choose", "removal-beard", "removal-bangs", "smile-choose")}
    assert {p.name for p in tmp_path.glob("*.sha256")} | others == {p.name for p in SETS.glob("*.sha256")}


def test_no_photo_of_a_reported_set_is_in_a_set_for_choosing():
    def hashes(*names):
        return {value for name in names for value in PhotoSet.read(SETS / f"{name}.sha256").hashes.values()}

    reported = hashes("report", "celebahq512-test", "celebahq512-final")
    assert not reported & hashes("choose", "removal-choose", "smile-choose")
    assert not hashes("removal-beard", "removal-bangs") & hashes("removal-choose")
    assert not hashes("celebahq512-final") & hashes("celebahq512-test", "removal-smile", "removal-eyeglasses")
