"""Edits from a short English text."""

from __future__ import annotations

import pytest

from oodgan.directions.bank import Bank
from oodgan.editing.ask import ATTRIBUTES, parse
from oodgan.errors import UserError


@pytest.mark.parametrize(
    ("text", "edits"),
    [
        ("a slight smile and glasses", {"smile": 0.5, "eyeglasses": 1.0}),
        ("Make her much YOUNGER!", {"age": -1.5}),
        ("smiling a little bit, with bangs", {"smile": 0.5, "bangs": 1.0}),
        ("very slightly older", {"age": 0.5}),
        ("a wide smile and wide eyes", {"smile": 1.5, "narrow_eyes": -1.0}),
        ("clean-shaven, mouth open.", {"beard": -1.0, "mouth_open": 1.0}),
        ("bushy eyebrows & dark hair", {"bushy_eyebrows": 1.0, "blond": -1.0}),
        ("mouth open", {"mouth_open": 1.0}),
    ],
)
def test_texts_are_parsed_to_attributes_and_strengths(text: str, edits: dict[str, float]) -> None:
    assert parse(text) == edits


@pytest.mark.parametrize(
    ("text", "edits"),
    [
        ("no glasses and a smile", {"eyeglasses": -1.0, "smile": 1.0}),
        ("without glasses or a beard", {"eyeglasses": -1.0, "beard": -1.0}),
        ("remove the glasses, add a big smile", {"eyeglasses": -1.0, "smile": 1.5}),
        ("take off the glasses with a smile", {"eyeglasses": -1.0, "smile": 1.0}),
        ("without a beard but old", {"beard": -1.0, "age": 1.0}),
        ("slightly less beard", {"beard": -0.5}),
        ("less serious", {"smile": 1.0}),
    ],
)
def test_a_negation_reverses_the_attributes_it_applies_to(text: str, edits: dict[str, float]) -> None:
    assert parse(text) == edits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a zombie with glases", r"unknown words 'zombie', 'glases' \(did you mean 'glasses'\?\)\. Known: smile"),
        ("long hair", "unknown word 'long'"),
        ("", "names no attribute"),
        ("the face", "names no attribute"),
        ("glasses and slightly", "'slightly' of what"),
        ("no", "'no' of what"),
        ("smile and smiling", "names smile twice"),
        ("remove the glasses and smile", "does 'remove' apply to smile, too"),
        ("without glasses, beard", "does 'without' apply to beard, too"),
    ],
)
def test_unclear_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


def test_phrases_exist_for_all_shipped_attributes_except_the_pose() -> None:
    assert set(ATTRIBUTES) == set(Bank.load("ffhq").names) - {"yaw"}
    for name, (more, less) in ATTRIBUTES.items():
        assert all(parse(phrase) == {name: 1.0} for phrase in (*more, name.replace("_", " ")))
        assert all(parse(phrase) == {name: -1.0} for phrase in less)
