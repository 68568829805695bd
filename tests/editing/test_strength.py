"""The search for the strength that gives a requested change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodgan import Editor
from oodgan.directions.bank import Bank
from oodgan.directions.probes import Probes
from oodgan.editing.strength import Choice, Course, Search, Target, parse, seek
from oodgan.errors import UserError
from oodgan.inversion.value import Inversion

SAMPLES = {"strength": [-1.5, -1.0, -0.5, 0.5, 1.0, 1.5], "move": [-0.3, -0.2, -0.1, 0.5, 2.0, 4.0]}
NOTES = {"range": [-1.5, 1.5], "samples": SAMPLES}


@pytest.mark.parametrize(
    ("value", "target"), [("auto", None), ("+1.0sd", 1.0), ("1 sd", 1.0), ("-.5sd", -0.5), (Target(2.0), 2.0)]
)
def test_targets_are_parsed(value: object, target: float | None) -> None:
    result = parse("smile", value)
    assert isinstance(result, Target) and result.sd == target
    assert parse("smile", str(result)) == result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("autoo", "did you mean 'auto'"),
        ("+1xd", r"did you mean '\+1sd'"),
        ("1", "a number, auto, or a change"),
        ("nansd", "a number, auto, or a change"),
        (f"{'9' * 400}sd", "a number, auto, or a change"),
        ("0sd", "asks for no change"),
        (math.inf, "finite number"),
        (True, "finite number"),
        (None, "finite number"),
    ],
)
def test_invalid_strengths_are_refused(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse("smile", value)


class KnownFace:
    """Previews of a face whose change and identity are known functions of the strength."""

    def __init__(self, change: Callable[[float], float], identity: Callable[[float], float] = lambda s: 0.9) -> None:
        self.change, self.identity, self.strengths = change, identity, list[float]()

    def __call__(self, strength: float) -> tuple[float, float]:
        self.strengths.append(strength)
        return self.change(strength), self.identity(strength)

    def seek(self, target: float, end: float = 1.5, previews: int = 5, floor: float = 0.6) -> Choice:
        return seek(self, target, Course(NOTES, end), floor, previews, tolerance=0.1)


@pytest.mark.parametrize("gain", [0.4, 0.7, 1.0, 1.6, 3.0])
@pytest.mark.parametrize("shape", ["as samples", "linear", "late"])
def test_the_search_reaches_the_requested_change(gain: float, shape: str) -> None:
    curves: dict[str, Callable[[float], float]] = {
        "as samples": lambda s: gain * Course(NOTES, 1.5).moves[3] * (s / 1.5) ** 1.7,
        "linear": lambda s: gain * 2 * s,
        "late": lambda s: gain * 9 * max(0.0, s - 0.6),
    }
    face = KnownFace(curves[shape])
    choice = face.seek(1.2)
    assert choice.reached and not choice.reason
    assert choice.change == pytest.approx(1.2, abs=0.1) and choice.change == curves[shape](choice.strength)
    assert len(face.strengths) <= 5 and all(0 < s <= 1.5 for s in face.strengths)
    assert choice.strength in face.strengths


def test_one_preview_is_enough_if_the_face_changes_like_the_samples() -> None:
    face = KnownFace(lambda s: 2.0 * s)
    assert face.seek(2.0).strength == 1.0 and face.strengths == [1.0]


def test_negative_changes_use_negative_strengths() -> None:
    face = KnownFace(lambda s: 0.4 * s)
    choice = face.seek(-0.4, end=-1.5)
    assert choice.reached and choice.strength == pytest.approx(-1.0, abs=0.25) and max(face.strengths) < 0
    assert choice.change == pytest.approx(-0.4, abs=0.1)


def test_the_search_for_an_unreachable_change_stops_at_the_useful_range() -> None:
    face = KnownFace(lambda s: 0.3 * s)
    choice = face.seek(2.0)
    assert not choice.reached and choice.strength == 1.5 and choice.change == pytest.approx(0.45)
    assert choice.reason == "the useful range ends at +1.5" and len(face.strengths) <= 3


def test_strength_0_is_chosen_if_the_change_has_the_wrong_sign() -> None:
    choice = KnownFace(lambda s: -s).seek(1.0)
    assert not choice.reached and choice.strength == 0 and choice.change == 0 and choice.reason


def test_the_chosen_strength_keeps_identity_above_the_floor() -> None:
    face = KnownFace(lambda s: s, lambda s: 1 - 0.5 * s)
    choice = face.seek(1.4, floor=0.6)
    assert not choice.reached and choice.identity >= 0.6 and choice.strength == pytest.approx(0.8, abs=0.05)
    assert "below 0.6" in choice.reason
    assert face.seek(1.4, floor=0.2).reached


def test_strength_0_is_chosen_if_every_strength_loses_the_identity() -> None:
    choice = KnownFace(lambda s: s, lambda s: 0.1).seek(1.0)
    assert not choice.reached and choice.strength == 0 and choice.identity == 1


class Grey(nn.Module):
    """An 8 px generator: the first number of the first layer is the picture's grey."""

    id, resolution, num_ws, style_dim = "grey-0", 8, 2, 512

    def __init__(self) -> None:
        super().__init__()
        self.feature_channels: dict[int, int] = {}
        self.sizes: list[int | None] = []
        self.register_buffer("mean_w", torch.zeros(512))

    def synthesis(
        self, w_plus: Tensor, noise: str = "const", size: int | None = None, residuals: object = None
    ) -> Tensor:
        self.sizes.append(size)
        return w_plus[:, :1, :1, None].expand(-1, 3, 8, 8)


class Mean(nn.Module):
    """The probe's feature extractor: the mean of the picture."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]


class Code:
    def invert(self, photos: Tensor) -> Inversion:
        return Inversion(photos.mean() * torch.ones(1, 2, 512))


@pytest.fixture
def grey() -> Editor:
    """`smile` at strength 1 brightens by 0.2: 1 sd by the probe, 2 sd by NOTES. `age` darkens."""
    vectors = torch.zeros(2, 2, 512)
    vectors[0, 0, 0], vectors[1, 0, 0] = 0.2, -0.1
    bank = Bank(("smile", "age"), vectors, "grey-0", "grey-0", {"smile": NOTES})
    search = Search(identity=0.0)
    search.probes = Probes(("smile",), torch.tensor([[5.0]]), torch.tensor([1.0]), {"smile": 1.0})
    search.extractor = Mean()  # type: ignore[assignment]

    def everywhere(inverted: Tensor, edited: Tensor, names: object, photo: Tensor) -> Tensor:
        return torch.ones_like(photo[:, :1])

    return Editor(Grey(), Code(), bank, everywhere, search=search)  # type: ignore[arg-type]


PHOTO = torch.full((3, 8, 8), 0.1)


@pytest.mark.network
def test_the_editor_applies_the_chosen_strength(grey: Editor) -> None:
    edit = grey.edit(PHOTO, {"age": 0.5, "smile": "+1sd"}, aligned=True)
    assert edit.edits == {"age": 0.5, "smile": pytest.approx(1.0, abs=0.1)} and list(edit.chosen) == ["smile"]
    choice = edit.chosen["smile"]
    assert choice.reached and choice.target == 1.0 and choice.strength == edit.edits["smile"]
    grey_now = float(edit.tensors["edited"].mean()) - float(edit.tensors["inverted"].mean())
    assert grey_now == pytest.approx(0.2 * choice.strength - 0.05, abs=1e-5)
    assert choice.change == pytest.approx(choice.strength, abs=1e-3), "only the change of smile, without that of age"
    assert set(edit.seconds) >= {"invert", "strength"} and edit.label.startswith("age +0.5, smile +")
    assert 8 in grey.generator.sizes, "previews have the probe's resolution"


@pytest.mark.network
def test_auto_requests_the_mean_change_of_samples_at_strength_1(grey: Editor) -> None:
    choice = grey.edit(PHOTO, {"smile": "auto"}, aligned=True).chosen["smile"]
    assert choice.target == 2.0
    assert not choice.reached and choice.strength == 1.5 and choice.change == pytest.approx(1.5, abs=1e-3)
    assert "(not reached: the useful range ends at +1.5)" in str(choice)


@pytest.mark.network
def test_previews_include_the_transferred_residuals(grey: Editor) -> None:
    class Half:
        def __call__(self, generator: object, inversion: Inversion, edited: Tensor) -> Inversion:
            return Inversion((inversion.w_plus + edited) / 2)

    grey.transfer = Half()  # type: ignore[assignment]
    choice = grey.edit(PHOTO, {"smile": "+0.6sd"}, aligned=True).chosen["smile"]
    assert choice.reached and choice.strength == pytest.approx(1.2, abs=0.2)


@pytest.mark.network
def test_previews_redraw_and_remove_parts_as_the_edit_does(grey: Editor) -> None:
    def half(inversion: Inversion, edits: Mapping[str, float], photo: Tensor | None = None) -> Inversion:
        assert photo is not None and torch.allclose(photo, PHOTO, atol=0.01)
        return Inversion((inversion.w_plus + grey.bank.apply(inversion.w_plus, edits)) / 2)

    grey.change = half  # type: ignore[method-assign]
    choice = grey.edit(PHOTO, {"smile": "+0.6sd"}, aligned=True).chosen["smile"]
    assert choice.reached and choice.strength == pytest.approx(1.2, abs=0.2)


def test_numeric_strengths_start_no_search(grey: Editor) -> None:
    edit = grey.edit(PHOTO, {"smile": 1.0}, aligned=True)
    assert edit.chosen == {} and set(edit.seconds) == {"align"}


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"age": "auto"}, r"unknown attribute for auto \(search.weights=probes_ffhq_seek\) 'age'.*known: smile"),
        ({"smlie": "auto"}, "unknown direction 'smlie'.*did you mean 'smile'"),
        ({"smile": "autoo"}, "did you mean 'auto'"),
    ],
)
def test_impossible_searches_are_refused_before_any_work(grey: Editor, edits: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grey.edit("nowhere.png", edits)


def test_auto_needs_a_calibrated_direction(grey: Editor) -> None:
    grey.bank = Bank(grey.bank.names, grey.bank.vectors, "grey-0", "grey-0")
    with pytest.raises(UserError, match=r"does not record the change at strength 1: use smile: \+1sd"):
        grey.checked({"smile": "auto"})
    assert grey.checked({"smile": "+1sd"}) == {"smile": Target(1.0)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"identity": 1.5}, "identity=1.5"), ({"previews": 0}, "previews=0"), ({"tolerance": 0.0}, "tolerance=0.0")],
)
def test_invalid_search_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"search.{message}"):
        Search(**settings)  # type: ignore[arg-type]


def test_search_and_evaluation_use_different_probes() -> None:
    from oodgan.directions.probes import SHIPPED_PROBES

    seek, judge = Search().probes, Probes.load(SHIPPED_PROBES)
    assert set(Bank.load("ffhq").names) <= set(seek.names)
    assert seek.weights.shape == judge.weights.shape
    for name in judge.names:
        columns = torch.stack([p.weights[:, p.index(name)] for p in (seek, judge)])
        assert float(torch.corrcoef(columns)[0, 1]) < 0.9


@pytest.mark.network
@pytest.mark.slow
def test_a_real_face_shows_the_requested_change(shared: Path) -> None:
    from oodgan.directions.probes import SHIPPED_PROBES, ImageProbe

    editor = Editor.from_pretrained("mobile_ffhq")
    photo = sorted((shared / "data" / "ood1024").glob("*.jpg"))[0]
    weak, strong = (editor.edit(photo, {"eyeglasses": t}, aligned=True) for t in ("+0.5sd", "+1.5sd"))
    judge = ImageProbe(Probes.load(SHIPPED_PROBES), "eyeglasses")
    seen = [float(judge(e.tensors["edited"]) - judge(e.tensors["inverted"])) for e in (weak, strong)]
    assert weak.chosen["eyeglasses"].strength < strong.chosen["eyeglasses"].strength
    assert seen[0] < seen[1]
    for edit, by_judge in zip((weak, strong), seen, strict=True):
        choice = edit.chosen["eyeglasses"]
        assert choice.identity >= 0.6
        if choice.reached:
            assert choice.change >= choice.target - 0.1
            assert by_judge > 0.3 * choice.target, "the independent probe measures the change, too"
