"""Mask metrics, another recogniser, notes on the method `paper`, and one-line errors for wrong input."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.cli import main
from oodgan.errors import UserError
from oodgan.evaluation import merged
from oodgan.stages import evaluate

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import COUNT, config, folders, result  # noqa: F401  (folders is a fixture)


@pytest.fixture
def edited(folders):  # noqa: F811
    """Output of the edit stage with masks in the central quarter, and parsing masks with a mouth there."""
    for folder in ("edited/result", "edited/mask", "parsing"):
        (folders / folder).mkdir(parents=True)
    (folders / "edited/edits.json").write_text("{}")
    mask = np.zeros((48, 48), np.uint8)
    mask[12:36, 12:36] = 255
    labels = np.ones((48, 48), np.uint8)
    labels[12:36, 12:24] = 11
    for i in range(COUNT):
        shutil.copy(folders / "near" / f"{i}.png", folders / "edited/result")
        Image.fromarray(mask).save(folders / "edited/mask" / f"{i}.png")
        Image.fromarray(labels).save(folders / "parsing" / f"{i}.png")
    return folders


def test_masks_of_a_folder_are_measured(edited):
    methods = {"edited": str(edited / "edited"), "far": str(edited / "far")}
    settings = {"methods": methods, "edits": {"smile": 1.0}, "masks": str(edited / "parsing")}
    evaluate.run(config(edited, **settings))
    held = result(edited)["methods"]
    assert held["edited"]["mask_area"]["mean"] == pytest.approx(0.25, abs=0.01)
    # Half of the mask is on the mouth, and dilation by 6 % of 32 px adds 2 of the other half's 8 columns.
    assert held["edited"]["mask_share_on_parts"]["mean"] == pytest.approx(0.5 + 2 / 16, abs=0.02)
    assert held["far"]["mask_area"] == {"count": 0}
    row = (edited / "out/table.md").read_text().splitlines()
    assert "mask_area ↓" in row[0] and "mask_share_on_parts ↑" in row[0] and "n/a" in row[3]


def test_no_share_on_parts_is_measured_without_parsing_or_for_whole_face_edits(edited):
    methods = {"edited": str(edited / "edited")}
    evaluate.run(config(edited, methods=methods, edits={"smile": 1.0}))
    assert "mask_share_on_parts" not in result(edited)["methods"]["edited"]
    whole = {"methods": methods, "edits": {"age": 1.0}, "masks": str(edited / "parsing")}
    evaluate.run(config(edited, "age", **whole))
    assert set(result(edited, "age")["methods"]["edited"]) == {"psnr", "ssim_gauss11", "mask_area"}


ARCFACE = {"_target_": "oodgan.nn.arcface.ArcFace"}


def test_a_user_defined_recogniser_is_a_column_with_its_name(edited):
    from oodgan.nn.arcface import IRSE50

    torch.manual_seed(0)
    torch.save(IRSE50().state_dict(), edited / "mine.pth")
    near, recogniser = {"near": str(edited / "near")}, {"path": str(edited / "mine.pth")}
    for out, given in (("out", {"identity": ARCFACE | recogniser}), ("judge", {"recogniser": recogniser})):
        evaluate.run(config(edited, out, methods=near, **given))
        (name,) = (key for key in result(edited, out)["methods"]["near"] if key.startswith("identity_arcface_mine_"))
        assert 0.5 < result(edited, out)["methods"]["near"][name]["mean"] <= 1.0
    with pytest.raises(UserError, match="there is no such file"):
        evaluate.run(config(edited, "other", identity=ARCFACE | {"path": "nowhere.onnx"}))


def test_notes_are_copied_to_the_merged_table(folders):  # noqa: F811
    evaluate.run(config(folders))
    held = result(folders)
    held["notes"] = ["`paper` is not quite theirs."]
    (folders / "out/metrics.json").write_text(json.dumps(held))
    assert merged.table(merged.read([folders / "out"])).endswith("`paper` is not quite theirs.\n")


WRONG = {
    "has the name of one of the photos": lambda f: [
        (f / "near" / f"{i}.png").rename(f / "near" / f"x{i}.png") for i in range(COUNT)
    ],
    "mixed sizes": lambda f: Image.new("RGB", (64, 64)).save(f / "near/3.png"),
    "contains no images": lambda f: [(f / "near" / f"{i}.png").unlink() for i in range(COUNT)],
    "is not an image": lambda f: (f / "near/2.png").write_bytes(b"no picture"),
    "must be square": lambda f: [Image.new("RGB", (48, 40)).save(f / "near" / f"{i}.png") for i in range(COUNT)],
    "enlarged pictures are not measured": lambda f: [
        Image.new("RGB", (16, 16)).save(f / "near" / f"{i}.png") for i in range(COUNT)
    ],
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_a_one_line_error_of_the_command(folders, message, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(folders)
    WRONG[message](folders)
    words = ["photos=photos", "methods={near: near}", "metrics=quick", "metrics.resolution=32", "probes=null"]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *words, "output=out"])
    printed = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(printed) == 1
    assert printed[0].startswith("error: ") and message in printed[0]


def test_out_of_range_pictures_of_a_method_are_one_line_errors(folders):  # noqa: F811
    """Image files hold bytes, so only a method's own output can be out of range; it is refused before writing."""
    from oodgan.evaluation.pairs import match
    from oodgan.evaluation.protocol import Protocol
    from oodgan.evaluation.score import Job, PairDataset, Scorer
    from oodgan.evaluation.store import Store

    class OutOfRange:
        def produce(self, method, photo, edit, changes):
            return photo * 255, None

    protocol = Protocol(resolution=32, metrics=["psnr"], sets=[])
    pairs = match(folders / "photos", {"plain": "plain"}, protocol, folders / "made")
    scorer = Scorer(Job(pairs, protocol, Store(folders / "store"), maker=lambda: OutOfRange()), 2)
    with pytest.raises(UserError, match="plain of 0 is out of range"):
        scorer._complete(PairDataset(pairs, protocol)[0])
    assert not pairs[0].results["plain"].exists()


def test_a_parser_computes_the_regions_of_photos_without_masks(edited):
    from oodgan.parsing.classes import NAMES
    from oodgan.parsing.network import ParserNetwork
    from oodgan.weights import trained

    torch.manual_seed(0)
    network = ParserNetwork(len(NAMES), width=8)
    network.head.weight.data.zero_()
    network.head.bias.data.zero_()[NAMES.index("upper_lip")] = 9.0  # every pixel is classified as mouth
    trained.save(edited / "parser" / trained.FILE, network.state_dict(), part="parser", classes=list(NAMES))
    target = "oodgan.parsing.network.ParserNetwork"
    parser = {"network": {"_target_": target, "width": 8}, "size": 32, "weights": str(edited / "parser")}
    settings = {"methods": {"edited": str(edited / "edited")}, "edits": {"smile": 1.0}, "parser": parser}
    evaluate.run(config(edited, **settings))
    assert result(edited)["methods"]["edited"]["mask_share_on_parts"]["mean"] == pytest.approx(1.0, abs=1e-4)
    evaluate.run(config(edited, "masked", **settings, masks=str(edited / "parsing")))
    share = result(edited, "masked")["methods"]["edited"]["mask_share_on_parts"]["mean"]
    assert share == pytest.approx(0.5 + 2 / 16, abs=0.02)  # the masks of the data take precedence
