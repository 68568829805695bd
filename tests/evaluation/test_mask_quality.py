"""Mask quality on a small generator with masks of known quality."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.evaluation.mask_quality import HELD_OUT, Face, Kind, MaskQuality
from oodgan.evaluation.mask_report import markdown, picture
from oodgan.generators.stylegan2 import StyleGAN2

pytestmark = pytest.mark.network  # regions are computed with LPIPS


class FixedMask(torch.nn.Module):
    """A masker with a given mask, whose Diff-CAM classifies every edit as its first class."""

    size, classes, names = 32, {"smile": 0, "age": 1}, ("smile", "age")

    def __init__(self, rows):
        super().__init__()
        self.rows, self.network = rows, object()

    def look(self, inverted, edited):
        return torch.tensor([[2.0, 1.0]]).expand(len(edited), 2), torch.zeros(len(edited), 2, 4, 4)

    def forward(self, inverted, edited, names, photo=None, maps=None):
        mask = torch.zeros_like(edited[:, :1])
        mask[..., self.rows, :] = 1
        return mask


@pytest.fixture(scope="module")
def generator_and_bank():
    torch.manual_seed(0)
    generator = StyleGAN2(64, max_channels=16).eval()
    bank = Bank(("smile", "age"), torch.randn(2, generator.num_ws, 512) * 2, generator.id, space=generator.id)
    return generator, bank


def measure(parts, **kinds):
    # The probe measures the brightness of the upper half.
    scores = {"smile": lambda images: images[:, :, :32].mean((1, 2, 3))}
    return MaskQuality(*parts, kinds, ["smile", "age"], scores)


def test_known_masks_get_the_expected_scores(generator_and_bank):
    upper, none = Kind(FixedMask(slice(0, 32)), "alpha"), Kind(FixedMask(slice(0, 0)), "alpha")
    quality = measure(generator_and_bank, upper=upper, all=Kind(FixedMask(slice(0, 64)), "difference"), none=none)
    for face in quality.held_out(5):
        quality.see(face)
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[:16] = True
    result = quality.summary({"smile": region, "age": region}, samples=50)
    smile = result["smile"]
    assert smile["upper"]["share_consistent_15"]["mean"] == pytest.approx(0.5)
    assert smile["upper"]["iou_consistent_15"]["mean"] == pytest.approx(0.5)
    assert smile["all"]["share_consistent_15"]["mean"] == pytest.approx(0.25)
    assert smile["none"]["share_consistent_15"] == {"count": 0}
    assert [smile[k]["area"]["mean"] for k in ("upper", "all", "none")] == [0.5, 1, 0]
    assert smile["all"]["edit_kept"]["mean"] == smile["upper"]["edit_kept"]["mean"] == pytest.approx(1, abs=1e-5)
    assert smile["none"]["edit_kept"]["mean"] == 0 and smile["none"]["edit_kept"]["count"] == 5
    assert result["age"]["all"]["edit_kept"] == {"count": 0}  # there is no probe for it
    assert (smile["all"]["named_right"]["mean"], result["age"]["all"]["named_right"]["mean"]) == (1, 0)
    assert picture(quality).size[0] > 6 * 160
    table = markdown({"samples": result}, "caption")
    assert "| smile | upper | 0.500 [0.500, 0.500] | 0.500" in table and table.endswith("caption\n")


def test_regions_contain_the_pixels_that_change_most(generator_and_bank):
    quality = measure(generator_and_bank, all=Kind(FixedMask(slice(0, 64)), "alpha"))
    for face in quality.held_out(3):
        quality.see(face)
    for name, region in quality.regions().items():
        change = quality.consistent[name].map()
        assert int(region.sum()) == round(0.15 * 64 * 64)
        assert change[region].min() >= change[~region].max()


def test_photos_are_measured_on_face_parts_and_relative_to_the_photo(generator_and_bank):
    kept = Kind(FixedMask(slice(0, 32)), "difference")
    quality = measure(generator_and_bank, kept=kept)
    (face,) = quality.held_out(1)
    labels = torch.ones(1, 64, 64, dtype=torch.int64)
    labels[:, 20:24] = 11
    quality.see(Face(face.code, torch.zeros(1, 3, 64, 64), labels))
    entry = quality.summary({name: torch.ones(64, 64, dtype=torch.bool) for name in ("smile", "age")})["smile"]["kept"]
    assert entry["share_on_parts"]["mean"] == pytest.approx((4 + 8) / 32)  # four rows, dilated by 6 % of 64 px
    # photo + mask x (edited - inverted) keeps the whole change except at clipped pixels.
    assert 0.3 < entry["edit_kept"]["mean"] <= 1.001


def test_held_out_samples_differ_from_each_other_and_by_seed(generator_and_bank):
    quality = measure(generator_and_bank, all=Kind(FixedMask(slice(0, 64)), "alpha"))
    first, second = (torch.cat([f.code.w_plus for f in quality.held_out(3, seed)]) for seed in (0, 1))
    assert not any(torch.equal(a, b) for a in first for b in second)
    assert not torch.equal(first[0], first[1]) and HELD_OUT > 10**12


def config(tmp_path, **changes):
    from oodgan.diffcam.network import DiffCAM
    from oodgan.weights import trained

    torch.manual_seed(0)
    network = {"backbone": "vgg16", "pretrained": False, "layers": [3, 8], "cut": 9, "trainable_from": 0}
    generator = {"_target_": "oodgan.generators.stylegan2.tiny"}
    from oodgan.generators import build

    made = build(generator)
    vectors = torch.randn(2, made.num_ws, 512)
    Bank(("smile", "age"), vectors, made.id, space=made.id).save(tmp_path / "bank")
    cam = DiffCAM(num_classes=2, **network)
    tensors = {f"network.{k}": v for k, v in cam.trained_state().items()} | {"regions": torch.ones(2, 32, 32)}
    trained.save(
        tmp_path / "diffcam" / trained.FILE, tensors, part="diffcam", generator=made.id, directions=["smile", "age"]
    )
    values = {
        "stage": "masks", "seed": 0, "folder": str(tmp_path / "run"), "replace": False, "generator": generator,
        "directions": {"_target_": "oodgan.directions.bank.Bank.load", "path": str(tmp_path / "bank")},
        "diffcam": {
            "network": {"_target_": "oodgan.diffcam.network.DiffCAM", **network}, "size": 32,
            "mask": {"kind": "guided"}, "weights": str(tmp_path / "diffcam"),
        },
        "inverter": {
            "name": "optimisation", "encoder": None, "weights": None,
            "refine": {"steps": 1, "size": 32, "losses": {"l2": 1.0}},
        },
        "compose": {"mode": "difference"}, "deghoster": None, "code_cache": 0,
        "transfer": {"_target_": "oodgan.inversion.transfer.Whole"},
        "attributes": None, "samples": 2, "truncation": 0.7, "strength": 1.0, "size": 32, "photos": None,
        "masks": None, "photo_limit": 2, "probes": "ffhq", "paper": {},
    }  # fmt: skip
    return OmegaConf.create(values | changes)


def test_the_stage_measures_samples_and_photos(tmp_path, draw_face, capsys):
    for folder in ("photos", "parsing"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        draw_face(i, 64).save(tmp_path / "photos" / f"{i}.png")
        Image.new("L", (64, 64), 11).save(tmp_path / "parsing" / f"{i}.png")
    cfg = config(tmp_path, photos=str(tmp_path / "photos"), masks=str(tmp_path / "parsing"))
    from oodgan.stages import masks

    result = masks.run(cfg)["metrics"]
    assert list(result) == ["2 held-out samples", "2 photos"]
    entry = result["2 photos"]["smile"]
    assert set(entry) == {"paper", "ours"} and entry["ours"]["share_on_parts"]["mean"] == pytest.approx(1, abs=1e-5)
    assert result["2 held-out samples"]["smile"]["ours"]["share_on_parts"] == {"count": 0}
    folder = tmp_path / "run" / "artifact"
    assert json.loads((folder / "masks.json").read_text())["tables"] == result
    assert "vgg16" in (folder / "table.md").read_text() and (folder / "masks.png").is_file()
    before = (folder / "masks.json").stat().st_mtime_ns
    assert masks.run(cfg)["metrics"] == result and (folder / "masks.json").stat().st_mtime_ns == before
    assert "### 2 photos" in capsys.readouterr().out


def test_unmeasurable_inputs_are_one_line_errors(tmp_path, draw_face):
    from oodgan.stages import masks

    (tmp_path / "photos").mkdir()
    draw_face(0, 64).save(tmp_path / "photos" / "a.png")
    (tmp_path / "parsing").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "parsing" / "b.png")
    cfg = config(tmp_path)
    wrong = {
        "at least 2": {"samples": 1},
        "did you mean 'smile'": {"attributes": ["smil"]},
        "set photos=FOLDER": {"masks": str(tmp_path)},
        "there is no folder": {"photos": str(tmp_path / "nowhere")},
        "has the name of one of the photos": {"photos": str(tmp_path / "photos"), "masks": str(tmp_path / "parsing")},
    }
    for message, changes in wrong.items():
        with pytest.raises(UserError, match=message):
            masks.run(OmegaConf.merge(cfg, changes))
