"""Masks are limited to the parts of a face that an attribute may change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oodgan.errors import UserError
from oodgan.launch import compose
from oodgan.parsing.classes import NAMES, numbers
from oodgan.parsing.reach import OCCLUDERS, Limits, Reach, colour_change, objects


def parts() -> torch.Tensor:
    """A face of 64 px: a hat at the top, skin below with a mouth, glasses at the left."""
    labels = torch.full((64, 64), NAMES.index("skin"))
    labels[:16] = NAMES.index("hat")
    labels[44:50, 26:38] = NAMES.index("mouth")
    labels[24:32, 4:20] = NAMES.index("glasses")
    return torch.nn.functional.one_hot(labels, len(NAMES)).movedim(-1, 0)[None].float()


def without_mouth() -> torch.Tensor:
    """The same face, with skin in place of the mouth."""
    skin = parts()
    skin[:, numbers(["skin"])] += skin[:, numbers(["mouth"])]
    skin[:, numbers(["mouth"])] = 0
    return skin


EVERYWHERE = torch.ones(1, 1, 64, 64)
CHANGED = EVERYWHERE  # the edit changes the colour of every pixel


def is_part(*names: str) -> torch.Tensor:
    return parts()[:, numbers(names)].sum(1, keepdim=True) > 0.5


def test_occluders_are_excluded_with_a_soft_border() -> None:
    result = Limits(feather=0.05)(parts(), EVERYWHERE, {"freckles": 1.0}, CHANGED)
    assert not result[is_part(*OCCLUDERS)].any()
    assert result[0, 0, 40, 50] == 1  # far from any limit
    column = result[0, 0, 14:22, 50]
    assert column[:2].sum() == 0 and 0 < column[2] < column[3] < column[4] <= 1
    assert torch.equal(Limits()(parts(), EVERYWHERE * 0.3, {"freckles": 1.0}, CHANGED)[0, 0, 40, 50], torch.tensor(0.3))


def test_a_mask_covers_an_attributes_parts_near_its_main_part() -> None:
    limits = Limits({"smile": Reach(["skin", "mouth"], near=["mouth"], within=0.2)}, feather=0)
    result = limits(parts(), EVERYWHERE, {"Smile": 1.0}, CHANGED)[0, 0]
    assert result[47, 32] == 1 and result[47, 24] == 1  # on the mouth, and near it
    assert result[47, 5] == 0 and result[20, 32] == 0  # too far
    both = limits(parts(), EVERYWHERE, {"smile": 1.0, "freckles": 1.0}, CHANGED)[0, 0]
    assert both[20, 32] == 1 and both[8, 32] == 0  # two attributes: the union of their parts
    no_mouth = limits(without_mouth(), EVERYWHERE, {"smile": 1.0}, CHANGED)[0, 0]
    assert no_mouth[20, 32] == 1  # no distance limit


def test_the_mask_covers_a_removed_part_completely() -> None:
    reach = Reach(["skin", "glasses"], removes=["glasses"])
    limits, nowhere = Limits({"eyeglasses": reach}, feather=0), EVERYWHERE * 0
    assert not limits(parts(), nowhere, {"eyeglasses": 1.0}, CHANGED).any()
    taken = limits(parts(), nowhere, {"eyeglasses": -1.0}, CHANGED)
    assert bool((taken[is_part("glasses")] > 0.99).all()) and taken.mean() < 0.1 and not taken[is_part("hat")].any()
    assert torch.equal(Limits({"yaw": Reach()})(parts(), EVERYWHERE, {"yaw": 1.0}, CHANGED), EVERYWHERE)


def test_parts_are_removed_only_near_the_attributes_main_part() -> None:
    limits = Limits({"smile": Reach(["skin"], near=["mouth"], within=0.2, removes=["skin"])})
    taken = limits.removed(parts(), {"smile": -1.0}, CHANGED)[0, 0]
    assert taken[47, 22] > 0.9 and taken[47, 5] == 0 and taken[20, 50] == 0
    assert not limits.removed(parts(), {"smile": 1.0}, CHANGED).any()


@given(strength=st.floats(0.01, 2))
def test_parts_fade_with_the_strength_and_objects_are_removed_at_any(strength: float) -> None:
    smile = Limits({"smile": Reach(["skin", "mouth"], removes=["mouth"])})
    glasses = Limits({"eyeglasses": Reach(["glasses"], removes=["glasses"])})
    mouth = smile.removed(parts(), {"smile": -strength}, CHANGED)[is_part("mouth")]
    assert torch.allclose(mouth, torch.tensor(min(strength, 1.0)), atol=0.01)
    assert bool((glasses.removed(parts(), {"eyeglasses": -strength}, CHANGED)[is_part("glasses")] > 0.99).all())


def test_objects_are_wide_unlike_the_code_and_not_classified_with_confidence() -> None:
    unlike = torch.zeros(1, 1, 256, 256)
    unlike[..., 30:120] = 0.9
    sure = torch.zeros(1, len(NAMES), 256, 256)
    sure[:, 1] = 1
    unsure, border = sure.clone(), sure.clone()
    unsure[:, 1:3, 60:120] = 0.5
    border[:, 1:3, 60:64] = 0.5
    result = objects(unsure, unlike, 0.5)
    assert bool((result[..., 62:118, 32:118] == 1).all())  # round corners
    result[..., 60:120, 30:120] = 0
    assert not result.any()
    for parts_, least in ((sure, 0.5), (border, 0.5), (unsure, 1.0)):
        assert not objects(parts_, unlike, least).any()


def test_a_removed_part_is_widened_by_the_margin_and_limited_to_what_it_must_be_around() -> None:
    sizes = []
    for margin in (0, 0.024, 0.1):
        taken = Limits({"smile": Reach(removes=["mouth"], margin=margin)}).removed(parts(), {"smile": -1.0}, CHANGED)
        sizes.append(float(taken.sum()))
    assert sizes[0] == float(is_part("mouth").sum()) and sizes[0] < sizes[1] < sizes[2]
    near = Limits({"smile": Reach(removes=["skin"], near=["hat"], around=["mouth"], within=0.2, margin=0)})
    taken = near.removed(parts(), {"smile": -1.0}, CHANGED)[0, 0]
    assert taken[47, 22] == 1 and taken[20, 50] == 0  # near the mouth; near the hat only


def test_a_part_that_holds_the_removed_thing_is_taken_only_where_the_edit_changes_it() -> None:
    limits = Limits({"beard": Reach(["skin"], removes=["skin"], margin=0, changed=True)})
    photo, change = torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128)
    change[..., 96:, :] = -0.5  # the lower quarter becomes darker
    seen = colour_change(photo, photo + change, 64)
    assert seen.shape == (1, 1, 64, 64) and seen[0, 0, 60, 32] == 0.5 and not seen[..., :40, :].any()
    taken = limits.removed(parts(), {"beard": -1.0}, seen)
    assert bool((taken[..., 50:, :][is_part("skin")[..., 50:, :]] == 1).all()) and not taken[..., :40, :].any()
    texture = torch.tensor([0.5, -0.5]).repeat(64).expand(1, 3, 128, 128)
    assert colour_change(photo, photo + texture, 64).max() < 0.01


@given(strength=st.floats(0.01, 2))
def test_new_parts_are_redrawn_completely_and_present_parts_by_the_strength(strength: float) -> None:
    limits = Limits({"smile": Reach(redraws=["mouth"])})
    closed, opened, mouth = without_mouth(), parts(), is_part("mouth")
    new = limits.redrawn(closed, opened, {"smile": strength})
    assert bool((new[mouth] > 0.99).all()) and new.mean() < 3 * mouth.float().mean() and not new[is_part("hat")].any()
    present = limits.redrawn(opened, opened, {"smile": strength})
    assert torch.allclose(present[mouth], torch.tensor(min(strength, 1.0)), atol=0.01)
    for edits in ({"smile": -strength}, {"smile": 0.0}, {"beard": strength}):
        assert not limits.redrawn(closed, opened, edits).any()
    assert not limits.redrawn(opened, closed, {"smile": strength}).any()  # a mouth that the edit closes
    both = Limits({"smile": Reach(redraws=["mouth"], recolours=["skin"])})
    region = both.redrawn(closed, opened, {"smile": strength})
    source, target = both.recoloured(closed, opened, {"smile": strength})
    assert bool((region[mouth] > 0.99).all()), "skin becomes mouth"
    chin = is_part("skin") & (torch.arange(64)[:, None] > 55)
    assert torch.allclose(region[chin], torch.tensor(min(strength, 1.0)))
    assert bool((source[mouth] == 1).all()), "the mouth was skin in the photo"
    assert bool((target[chin] > 0.99).all()) and not target[mouth].round().any()
    assert not any(map(torch.any, both.recoloured(closed, opened, {"smile": 0.0, "beard": strength})))


def head() -> torch.Tensor:
    """A head of 64 px, from the top: background, hair, forehead, brows, eyes, nose, lips, neck and clothes."""
    labels = torch.full((64, 64), NAMES.index("background"))
    rows = {"hair": (8, 18), "skin": (18, 50), "neck": (50, 56), "cloth": (56, 64)}
    for name, (top, bottom) in rows.items():
        labels[top:bottom, 12:52] = NAMES.index(name)
    labels[18:40, 12:16] = labels[18:40, 48:52] = NAMES.index("hair")
    for name, (top, bottom) in {"brows": (25, 27), "eyes": (28, 31), "nose": (32, 38), "mouth": (41, 44)}.items():
        labels[top:bottom, 22:42] = NAMES.index(name)
    return torch.nn.functional.one_hot(labels, len(NAMES)).movedim(-1, 0)[None].float()


@pytest.mark.parametrize(
    ("attribute", "reached", "whole"),
    [
        ("age", {"hair", "forehead", "brows", "eyes", "nose", "chin", "neck"}, set()),
        ("bald", {"hair", "forehead"}, {"hair"}),
        ("bangs", {"hair", "forehead"}, set()),
        ("blond", {"hair"}, {"hair"}),
    ],
)
def test_the_shipped_limits_include_hair_and_skin_where_needed(
    attribute: str, reached: set[str], whole: set[str]
) -> None:
    places = {
        "background": (32, 4), "hair": (13, 32), "forehead": (21, 32), "brows": (26, 32), "eyes": (29, 32),
        "nose": (35, 32), "mouth": (42, 32), "chin": (47, 32), "neck": (53, 32), "cloth": (60, 32),
    }  # fmt: skip
    limits = Limits.from_config(compose("edit", ["parser=light", "edits={age: 1}", "input=a.png"]).parser.reach, 0)
    most, least = (limits(head(), mask, {attribute: 1.0}, CHANGED)[0, 0] for mask in (EVERYWHERE, EVERYWHERE * 0))
    amount = {name: float(most[place]) for name, place in places.items()}
    assert all(amount[name] > 0.7 for name in reached), amount
    assert not amount["background"] and not amount["cloth"], amount
    assert not amount["mouth"] and (attribute == "age" or not amount["neck"]), amount
    assert {name for name, place in places.items() if least[place] > 0.5} == whole


def test_the_error_for_an_invalid_setting_names_it() -> None:
    with pytest.raises(UserError, match=r"unknown key of parser\.reach\.smile 'nearby'.*near"):
        Limits.from_config({"smile": {"nearby": ["mouth"]}})
    with pytest.raises(UserError, match=r"parser\.reach\.smile: unknown class of the parser 'lips'"):
        Limits.from_config({"smile": {"parts": ["lips"]}})
    with pytest.raises(UserError, match=r"within=0 is a share"):
        Limits.from_config({"smile": {"within": 0}})
    with pytest.raises(UserError, match=r"parser\.reach\.beard: margin=1 is a share"):
        Limits.from_config({"beard": {"removes": ["skin"], "margin": 1}})
    for useless in ({"margin": 0.1}, {"around": ["mouth"]}, {"changed": True}):
        with pytest.raises(UserError, match=r"parser\.reach\.age: around, margin and changed .* set removes too"):
            Limits.from_config({"age": useless})
    with pytest.raises(UserError, match=r"parser\.feather=3"):
        Limits.from_config({}, 3)


def test_the_shipped_limits_cover_the_shipped_directions() -> None:
    from oodgan.directions.bank import Bank, locate

    cfg = compose("edit", ["parser=light", "edits={smile: 1}", "input=a.png"]).parser
    limits = Limits.from_config(cfg.reach, cfg.feather)
    assert set(limits.reach) == set(Bank.load(locate("ffhq")).names)
    assert "glasses" not in (limits.of("smile").parts or ()) and "glasses" in limits.of("eyeglasses").removes
    shaved = limits.removed(head(), {"beard": -1.0}, CHANGED)[0, 0]  # the chin, and neither lips nor forehead
    assert shaved[47, 32] > 0.9 and not shaved[42, 32] and shaved[21, 32] < 0.2
    combed = limits.removed(head(), {"bangs": -1.0}, CHANGED)[0, 0]  # hair above the brows
    assert combed[17, 32] > 0.5 and not combed[47, 32] and not combed[29, 32]
    taken = limits.removed(head(), {"smile": -1.0}, CHANGED)[0, 0]  # the mouth, and not the eyes
    assert taken[42, 32] > 0.9 and not taken[29, 32] and not limits.removed(head(), {"smile": 1.0}, CHANGED).any()
