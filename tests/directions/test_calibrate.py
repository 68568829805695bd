"""Calibration of strength 1, useful ranges and the check, on curves with known results."""

from __future__ import annotations

import pytest
import torch

from oodgan.directions.bank import Bank
from oodgan.directions.calibrate import Check, find_step, useful_range
from oodgan.directions.card import write_card


def test_calibration_finds_the_step_that_reaches_the_target():
    length, why = find_step(lambda s: (0.5 * s, 1 - 0.05 * s), target=2.0, identity=0.5)
    assert why == "target" and length == pytest.approx(4.0)


def test_calibration_stops_at_the_identity_limit():
    length, why = find_step(lambda s: (0.5 * s, 1 - 0.2 * s), target=2.0, identity=0.5)
    assert why == "identity" and length == pytest.approx(2.5)


def test_calibration_handles_scores_that_decrease_again_or_never_reach_the_target():
    turning = {True: 1.0, False: 0.2}
    length, why = find_step(lambda s: (turning[s < 3], 0.9), target=2.0, identity=0.5)
    assert why == "turned" and length < 4
    assert find_step(lambda s: (0.01 * s, 0.9), target=2.0, identity=0.5, longest=6.0) == (6.0, "length")


def test_the_useful_range_ends_where_the_score_stops_growing_or_identity_is_lost():
    curve = {
        "strength": [-1.5, -1, -0.5, 0.5, 1, 1.5],
        "move": [-0.9, -1.0, -0.5, 0.5, 1, 1.5],
        "identity": [0.9, 0.9, 0.9, 0.9, 0.6, 0.1],
    }
    assert useful_range(curve) == [-1, 1]


def test_the_card_shows_the_attribute_that_changes_most_besides_the_own(tmp_path):
    moves = torch.tensor([[2.0, -0.5, 0.1], [0.2, 1.5, 0.9]])
    result = Check(("smile", "beard"), ("smile", "beard", "pitch"), moves, torch.tensor([0.8, 0.6]), 40)
    assert result.own("beard") == 1.5 and result.strongest_other("smile") == ("beard", -0.5)
    bank = Bank(("smile", "beard"), torch.ones(2, 4, 512), "g", "g", {"smile": {"range": [-1, 2]}})
    extra = {"compose": [{"pair": ["smile", "beard"], "kept": [0.9, 1.1], "kept_learnt": [0.95, 1.0], "identity": 0.5}]}
    text = write_card(bank, tmp_path / "card.md", "oodgan directions", ["p/sheet.jpg"], result, extra).read_text()
    for wanted in ("| smile | 22.63 | 0 to 3 | -1 to 2 |", "beard -0.50", "![sheet](p/sheet.jpg)", "smile + beard"):
        assert wanted in text
