"""The editor: five steps in order, computed lazily, for photos of every type."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from oodgan import Editor
from oodgan.data import images
from oodgan.directions.bank import Bank
from oodgan.editing.edit import IMAGES, STEPS, paste
from oodgan.editing.editor import _redrawn
from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.inverter import OptimisationInverter
from oodgan.inversion.refine import Refinement
from oodgan.inversion.value import Inversion
from oodgan.parsing.reach import Redrawn


def left_half_of_the_change(inverted: Tensor, edited: Tensor, names: Sequence[str], photo: Tensor) -> Tensor:
    """A minimal masker: 1 at changed pixels of the left half."""
    mask = ((edited - inverted).abs().mean(1, keepdim=True) > 0.01).float()
    mask[..., mask.shape[-1] // 2 :] = 0
    return mask


class Counting(OptimisationInverter):
    calls = 0

    def invert(self, photos: Tensor) -> Inversion:
        type(self).calls += 1
        return super().invert(photos)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(resolution=32).eval().requires_grad_(False)


@pytest.fixture
def editor(generator: StyleGAN2) -> Editor:
    vectors = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    bank = Bank(("smile", "age"), vectors, generator.id, generator.id)
    Counting.calls = 0
    losses = {"l2": 1.0, "lpips": 0.0, "identity": 0.0}
    inverter = Counting(generator, Refinement(steps=2, size=32, losses=losses))
    return Editor(generator, inverter, bank, left_half_of_the_change, None, {"mode": "paper"})  # type: ignore[arg-type]


@pytest.fixture
def face(draw_face) -> Image.Image:
    return draw_face(3, size=64)


def test_the_steps_run_in_the_papers_order(editor: Editor, face: Image.Image) -> None:
    edit = editor.edit(face, {"smile": 1.0}, aligned=True)
    t = dict(edit.tensors)
    assert list(t) == list(IMAGES)
    assert all(t[name].shape == (1, 3, 32, 32) and t[name].abs().max() <= 1 for name in IMAGES if name != "mask")
    assert t["mask"].shape == (1, 1, 32, 32) and set(t["mask"].unique().tolist()) == {0.0, 1.0}
    code = editor.bank.apply(edit.w_plus, {"smile": 1.0})
    assert torch.allclose(t["edited"], editor.generator.synthesis(code).clamp(-1, 1), atol=1e-4)
    assert torch.equal(t["coarse"], t["mask"] * t["edited"] + (1 - t["mask"]) * t["photo"])
    assert torch.equal(t["result"], t["coarse"])  # there is no remover
    assert list(edit.seconds) == ["align", *STEPS.values()]
    assert edit.label == "smile +1"


def test_the_remover_receives_all_images_and_returns_the_result(editor: Editor, face: Image.Image) -> None:
    seen: dict[str, Tensor] = {}

    def remover(**given: Tensor) -> Tensor:
        seen.update(given)
        return -given["coarse"] * 3

    editor.remover = remover  # type: ignore[assignment]
    edit = editor.edit(face, {"age": -0.5}, aligned=True)
    assert torch.equal(edit.tensors["result"], (-edit.tensors["coarse"] * 3).clamp(-1, 1))
    assert set(seen) == {"photo", "inverted", "edited", "mask", "coarse", "w_plus"}
    assert torch.equal(seen["w_plus"], edit.w_plus - 0.5 * editor.bank["age"])


def test_images_are_computed_lazily(editor: Editor, face: Image.Image) -> None:
    edit = editor.edit(face, {"smile": 1.0}, aligned=True)
    assert Counting.calls == 0 and set(edit.seconds) == {"align"}
    assert edit.edited.size == (32, 32)
    assert Counting.calls == 1 and set(edit.seconds) == {"align", "invert", "edit"}


def test_a_photo_is_inverted_once_for_all_its_edits(editor: Editor, face: Image.Image, tmp_path: Path) -> None:
    face.save(tmp_path / "face.png")
    first = editor.edit(face, {"smile": 1.0}, aligned=True).result
    sweep = editor.sweep(tmp_path / "face.png", "smile", [-1, 0, 1], also={"age": 0.0}, aligned=True)
    assert [edit.edits["smile"] for edit in sweep] == [-1, 0, 1]
    pictures = [edit.result for edit in sweep]
    assert Counting.calls == 1
    assert np.array_equal(pictures[2], first) and not np.array_equal(pictures[0], first)
    editor.edit(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {"smile": 1.0}, aligned=True).result.load()
    assert Counting.calls == 2


def test_strength_0_gives_an_empty_mask_and_the_photo(editor: Editor, face: Image.Image) -> None:
    for edits in ({}, {"smile": 0.0}):
        edit = editor.edit(face, edits, aligned=True)
        assert not edit.tensors["mask"].any()
        assert np.array_equal(edit.result, edit.photo)


def test_a_photo_is_accepted_in_every_type_with_the_same_pixels(editor: Editor, draw_face, tmp_path: Path) -> None:
    face = draw_face(5, size=32)
    face.save(tmp_path / "face.png")
    array = np.array(face)
    forms = [face, tmp_path / "face.png", str(tmp_path / "face.png"), array, array / 255.0, images.from_pil(face)]
    photos = [edit.tensors["photo"] for edit in editor.edit(forms, {"smile": 1}, aligned=True)]
    assert len(photos) == len(forms)
    assert all(torch.equal(photo[0], images.from_pil(face)) for photo in photos)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 7), np.uint8), "shape"),
        (np.full((8, 8, 3), 255.0), r"\[0, 1\]"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (torch.zeros(1, 8, 8), "shape"),
        (torch.zeros(2, 3, 8, 8), "or a list"),
        (torch.full((3, 8, 8), 200.0), r"\[-1, 1\]"),
        ({"photo": 1}, "dict is not a photo"),
        ("nowhere.png", "no such file: nowhere.png"),
    ],
)
def test_invalid_photos_are_refused(editor: Editor, picture: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        editor.edit(picture, {"smile": 1.0}, aligned=True)  # type: ignore[call-overload]


def test_wrong_edits_are_refused_before_any_work(editor: Editor) -> None:
    with pytest.raises(UserError, match="did you mean 'smile'"):
        editor.edit("nowhere.png", {"smlie": 1.0})
    with pytest.raises(UserError, match="finite number"):
        editor.edit("nowhere.png", {"smile": float("nan")})
    with pytest.raises(UserError, match="a mapping is expected"):
        editor.edit("nowhere.png", "smile")  # type: ignore[call-overload]


def test_an_attribute_unknown_to_diffcam_is_refused(editor: Editor, face: Image.Image) -> None:
    class MaskerOfAge:
        names = ("age",)

    editor.masker = MaskerOfAge()  # type: ignore[assignment]
    with pytest.raises(UserError, match="Diff-CAM 'smile'"):
        editor.edit(face, {"smile": 1.0}, aligned=True)


def test_pasting_changes_only_edited_pixels(editor: Editor, draw_face) -> None:
    wide = Image.new("RGB", (96, 64), (40, 90, 160))
    wide.paste(draw_face(3, size=64), (16, 0))
    edit = editor.edit(wide, {"smile": 1.0}, aligned=True)
    assert edit.pasted.size == wide.size
    outside = np.asarray(edit.pasted)[:, :16], np.asarray(wide)[:, :16]
    assert np.array_equal(*outside)
    assert not np.array_equal(edit.pasted, wide)
    unchanged = editor.edit(wide, {"smile": 0.0}, aligned=True)
    assert np.array_equal(unchanged.pasted, wide)


@pytest.mark.network
def test_every_face_of_a_photo_is_edited_separately(
    generator: StyleGAN2, editor: Editor, astronaut: Image.Image
) -> None:
    two = Image.new("RGB", (900, 512))
    two.paste(astronaut.resize((380, 380)), (0, 0))
    two.paste(astronaut, (388, 0))
    result = editor.edit(two, {"smile": 1.0}, face="all")
    assert len(result) == 2
    assert result[0].subject.aligned.side > result[1].subject.aligned.side
    both = np.asarray(paste(result)).astype(int)
    for edit in result:
        alone = np.asarray(edit.pasted).astype(int)
        x, y = edit.subject.aligned.quad.mean(axis=0).astype(int)
        assert np.array_equal(both[y - 10 : y + 10, x - 30 : x + 10], alone[y - 10 : y + 10, x - 30 : x + 10])
    second = editor.edit(two, {"smile": 1.0}, face=1)
    assert np.array_equal(second.subject.aligned.quad, result[1].subject.aligned.quad)
    with pytest.raises(UserError, match="numbered from 0"):
        editor.edit(two, {"smile": 1.0}, face=2)


def test_an_aligned_tensor_is_edited_without_face_detection(editor: Editor, generator: StyleGAN2) -> None:
    sample = generator.synthesis(sample_codes(generator, 1, seed=3))[0].clamp(-1, 1)
    edit = editor.edit(sample, {"age": 1.0}, aligned=True)
    assert (edit.tensors["photo"][0] - sample).abs().max() <= 1.01 / 255


def test_from_pretrained_suggests_the_nearest_name_for_unknown_arguments() -> None:
    with pytest.raises(UserError, match="did you mean 'mobile_ffhq'"):
        Editor.from_pretrained("mobile_ffqh")
    with pytest.raises(UserError, match="did you mean 'none'"):
        Editor.from_pretrained(deghoster="nonee")
    with pytest.raises(UserError, match="accelerator"):
        Editor.from_pretrained(acelerator="gpu")


@pytest.mark.network
@pytest.mark.slow
def test_the_examples_in_the_docstrings_run(
    astronaut: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    astronaut.save("photo.jpg")
    names: dict[str, object] = {}
    for described in (Editor, Editor.edit, Editor.sweep):
        example = inspect.cleandoc(described.__doc__ or "").partition("Example::\n")[2]
        assert example
        exec(textwrap.dedent(example), names)
    assert "torch.Size([1, 3, 1024, 1024])" in capsys.readouterr().out
    assert Image.open("smiling.jpg").size == astronaut.size and Image.open("mask.png").mode == "L"
    assert len(list(tmp_path.glob("smile +0.5, age *.png"))) == 3


@pytest.mark.network
@pytest.mark.slow
def test_the_shipped_networks_edit_a_real_photo_only_inside_the_mask(astronaut: Image.Image) -> None:
    editor = Editor.from_pretrained("mobile_ffhq")
    edit = editor.edit(astronaut, {"smile": 1.0})
    t = edit.tensors
    assert t["result"].shape == (1, 3, 1024, 1024) and edit.pasted.size == astronaut.size
    inside, outside = t["mask"] > 0.5, t["mask"] == 0
    assert 0.005 < inside.float().mean() < 0.5 and outside.float().mean() > 0.2
    change = (t["result"] - t["photo"]).abs().mean(1, keepdim=True)
    assert change[inside].mean() > 0.02
    assert float(change[outside].max()) == 0
    corners = np.asarray(edit.pasted)[:, :40], np.asarray(astronaut)[:, :40]
    assert np.array_equal(*corners)


def test_a_given_mask_multiplies_or_replaces_the_diffcam_mask(editor: Editor, face: Image.Image) -> None:
    drawn = np.zeros((64, 64), np.uint8)
    drawn[:32] = 255  # the upper half may change
    edits = {"smile": 1.0}
    own, alone = editor.edit(face, edits, aligned=True, mask=drawn), editor.edit(face, edits, aligned=True)
    upper = torch.zeros(1, 1, 32, 32)
    upper[:, :, :16] = 1
    rows = [row for row in range(32) if row not in (15, 16)]  # without the rows in which the mask's edge is resampled
    expected = (alone.tensors["mask"] * upper)[:, :, rows]
    assert torch.allclose(own.tensors["mask"][:, :, rows], expected, atol=1e-6)
    assert torch.equal(own.tensors["result"][:, :, 17:], own.tensors["photo"][:, :, 17:])
    replaced = editor.edit(face, edits, aligned=True, mask=Image.fromarray(drawn), mask_mode="replace")
    assert torch.allclose(replaced.tensors["mask"][:, :, rows], upper[:, :, rows], atol=1e-6)
    assert not editor.edit(face, {"smile": 0.0}, aligned=True, mask=drawn, mask_mode="replace").tensors["mask"].any()


def test_a_given_mask_is_aligned_with_the_photo(editor: Editor, face: Image.Image) -> None:
    """The mask is cropped with the photo: given the photo itself as mask, it equals the cropped photo."""
    from oodgan.data.detect import Face

    wide = Image.new("RGB", (160, 120), (90, 90, 90))
    wide.paste(face.resize((96, 96)), (30, 12))
    wide = wide.convert("L").convert("RGB")
    landmarks = np.array([[60, 50], [95, 55], [76, 70], [62, 85], [92, 88]], np.float64)
    result = Face((40, 20, 115, 105), 0.99, landmarks)
    edit = editor.edit(wide, {"smile": 1.0}, face=result, mask=wide, mask_mode="replace")
    assert torch.allclose(edit.tensors["mask"] * 2 - 1, edit.tensors["photo"][:, :1], atol=1e-5)


def test_a_given_mask_of_another_size_is_refused(editor: Editor, face: Image.Image) -> None:
    with pytest.raises(UserError, match="the mask array is 64 x 32 px, but the photo is 64 x 64"):
        editor.edit(face, {"smile": 1.0}, aligned=True, mask=np.zeros((32, 64), np.uint8))
    with pytest.raises(UserError, match="unknown mask_mode 'add'; known: multiply, replace"):
        editor.edit(face, {"smile": 1.0}, aligned=True, mask=np.zeros((64, 64), np.uint8), mask_mode="add")


def test_a_parser_limits_the_mask_to_the_attributes_parts(editor: Editor, face: Image.Image) -> None:
    from oodgan.parsing.classes import NAMES
    from oodgan.parsing.parser import Parser
    from oodgan.parsing.reach import Limits, Reach

    class UpperHalfHat(torch.nn.Module):
        def forward(self, photos: Tensor) -> Tensor:
            scores = torch.zeros(len(photos), len(NAMES), *photos.shape[2:])
            scores[:, NAMES.index("skin")] = 9
            scores[:, NAMES.index("hat"), : photos.shape[2] // 2] = 99
            return scores

    free = editor.edit(face, {"smile": 1.0}, aligned=True).tensors["mask"]
    editor.parser = Parser(UpperHalfHat(), 32, Limits({"age": Reach()}, feather=0))
    kept = editor.edit(face, {"smile": 1.0}, aligned=True).tensors
    assert free[:, :, :16].any() and not kept["mask"][:, :, :16].any()
    assert torch.allclose(kept["mask"][:, :, 16:], free[:, :, 16:], atol=0.05)
    assert torch.equal(kept["result"][:, :, :16], kept["photo"][:, :, :16])
    age = editor.edit(face, {"age": 1.0}, aligned=True).tensors["mask"]
    assert age[:, :, :16].any()  # age has no limits


def test_residuals_are_faded_out_at_redrawn_parts(editor: Editor) -> None:
    from oodgan.parsing.classes import NAMES
    from oodgan.parsing.parser import Parser
    from oodgan.parsing.reach import Limits, Reach

    class LeftHalfMouth(torch.nn.Module):
        score = 99.0

        def forward(self, photos: Tensor) -> Tensor:
            scores = torch.zeros(len(photos), len(NAMES), *photos.shape[2:])
            scores[..., : photos.shape[3] // 2][:, NAMES.index("mouth")] = self.score
            return scores

    network = LeftHalfMouth()
    editor.parser = Parser(network, 32, Limits({"smile": Reach(redraws=["mouth"])}), foreign=9)
    channels = editor.generator.feature_channels[8]
    inversion = Inversion(torch.zeros(1, editor.generator.num_ws, 512), {8: torch.ones(1, channels, 8, 8)})
    photo = torch.zeros(1, 3, 32, 32)
    for strength, kept in ((0.25, 0.75), (1.5, 0.0), (-1.0, 1.0)):
        residual = editor.change(inversion, {"smile": strength}, photo).residuals[8]
        assert torch.allclose(residual[..., :3], torch.tensor(kept), atol=1e-6)
        assert bool((residual[..., 6:] == 1).all())
    assert bool((editor.change(inversion, {"smile": 1.0}).residuals[8] == 1).all())  # no photo
    editor.parser.foreign = 0.5
    alone = editor.generator.synthesis(inversion.w_plus, size=32).clamp(-1, 1)
    # the code draws this photo; the code does not, but the parser is confident of a mouth; an object
    for photo, score, kept in ((alone, 99.0, 0.0), (alone + 2, 99.0, 0.0), (alone + 2, 3.5, 1.0)):
        network.score = score
        residual = editor.change(inversion, {"smile": 1.5}, photo).residuals[8]
        assert torch.allclose(residual[..., :3], torch.tensor(kept), atol=1e-6)


@given(strength=st.floats(0.01, 2), colour=st.floats(-2, 2))
def test_recoloured_parts_get_the_mean_residual_of_the_photos_parts(strength: float, colour: float) -> None:
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    drawn = Redrawn(region=left * min(strength, 1.0), source=1 - left, target=left)
    before = torch.randn(1, 4, 8, 8)
    before[..., 4:] += colour - before[..., 4:].mean((2, 3), keepdim=True)  # the mean of the right half is the colour
    changed = Inversion(torch.zeros(1, 2, 512), {8: torch.randn(1, 4, 8, 8)})
    residual = _redrawn(Inversion(changed.w_plus, {8: before}), changed, drawn).residuals[8]
    expected = torch.lerp(changed.residuals[8], torch.tensor(colour), min(strength, 1.0))
    assert torch.allclose(residual[..., :4], expected[..., :4], atol=1e-5)
    assert torch.equal(residual[..., 4:], changed.residuals[8][..., 4:])
    nowhere = drawn._replace(source=torch.zeros_like(left))  # the photo does not show these parts
    residual = _redrawn(Inversion(changed.w_plus, {8: before}), changed, nowhere).residuals[8]
    assert torch.allclose(residual[..., :4], changed.residuals[8][..., :4] * (1 - min(strength, 1.0)), atol=1e-5)


def test_residuals_are_set_to_zero_at_removed_parts(editor: Editor) -> None:
    from oodgan.parsing.classes import NAMES
    from oodgan.parsing.parser import Parser
    from oodgan.parsing.reach import Limits, Reach

    class LeftHalfGlasses(torch.nn.Module):
        def forward(self, photos: Tensor) -> Tensor:
            scores = torch.zeros(len(photos), len(NAMES), *photos.shape[2:])
            scores[:, NAMES.index("skin")] = 9
            scores[..., : photos.shape[3] // 2][:, NAMES.index("glasses")] = 99
            return scores

    editor.parser = Parser(LeftHalfGlasses(), 32, Limits({"smile": Reach(removes=["glasses"])}))
    inversion = Inversion(torch.zeros(1, editor.generator.num_ws, 512), {8: torch.ones(1, 4, 8, 8)})
    photo = torch.zeros(1, 3, 32, 32)
    taken = editor.change(inversion, {"smile": -1.0}, photo).residuals[8]
    assert taken[..., :4].abs().max() < 1e-6 and bool((taken[..., 6:] == 1).all())
    assert torch.equal(taken, editor.change(inversion, {"smile": -1.0, "age": 1.0}, photo).residuals[8])
    for edits in ({"smile": 1.0}, {"age": -1.0}):
        assert bool((editor.change(inversion, edits, photo).residuals[8] == 1).all())
    assert bool((editor.change(inversion, {"smile": -1.0}).residuals[8] == 1).all())
