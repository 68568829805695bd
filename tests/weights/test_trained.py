"""Weights trained by this project: their metadata, and the reasons for refusing them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.weights import trained

TENSORS = {"a.weight": torch.tensor([[0.1, -2.0]]), "count": torch.tensor(7)}
MADE = {"part": "encoder", "generator": "tiny-1", "directions": ["smile", "age"]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    trained.save(tmp_path / "run" / trained.FILE, TENSORS, **MADE)
    return tmp_path / "run" / trained.FILE


def test_tensors_and_metadata_are_read_back(weights: Path) -> None:
    for source in (weights, weights.parent, str(weights.parent)):
        tensors, metadata = trained.load(source, "encoder", generator="tiny-1", directions=("smile", "age"))
        assert metadata == MADE
        assert torch.equal(tensors["a.weight"], TENSORS["a.weight"]) and tensors["count"] == 7
    assert [path.name for path in weights.parent.iterdir()] == [trained.FILE], "no temporary file is left"


def test_half_precision_applies_to_floats_only_and_is_read_as_float32(tmp_path: Path) -> None:
    trained.save(tmp_path / "w.safetensors", {**TENSORS, "long": torch.zeros(1000)}, half=True, part="encoder")
    tensors, _ = trained.load(tmp_path / "w.safetensors", "encoder")
    assert tensors["long"].dtype == torch.float32 and tensors["count"].dtype == torch.int64
    assert tensors["a.weight"].tolist() == [[pytest.approx(0.1, abs=1e-4), -2.0]]
    assert (tmp_path / "w.safetensors").stat().st_size < 2500


def test_values_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.scale"):
        trained.save(tmp_path / "w.safetensors", {"a.scale": torch.tensor([1e6])}, half=True, part="encoder")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"part": "deghoster"}, "holds encoder weights, deghoster weights are needed"),
        ({"generator": "other-2"}, "made for generator tiny-1, but other-2 is configured"),
        ({"directions": ["smile"]}, "made for directions smile, age, but smile is configured"),
        ({"directions": ["age", "smile"]}, "made for directions smile, age, but age, smile is configured"),
    ],
)
def test_mismatched_weights_are_refused_with_expected_and_actual_value(
    weights: Path, wanted: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trained.load(weights, **{"part": "encoder", **wanted})


def test_a_damaged_file_or_one_of_another_project_is_refused(weights: Path, tmp_path: Path) -> None:
    whole = weights.read_bytes()
    for damaged in (whole[:-3], whole[:4], b"", b"not a safetensors file at all"):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match=r"weights file .* is damaged or has another format"):
            trained.load(weights, "encoder")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="holds unnamed weights"):
        trained.load(tmp_path / "foreign.safetensors", "encoder")
    bank = Bank(("smile",), torch.ones(1, 4, 512), "tiny-1", "tiny-1").save(tmp_path / "bank.safetensors")
    with pytest.raises(UserError, match="is damaged or has another format"):
        trained.load(bank, "encoder")


def test_the_error_for_an_unknown_name_suggests_the_nearest_shipped_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'probes_ffhq'\?.*directions_ffhq"):
        trained.load("probe_ffhq", "encoder")
    with pytest.raises(UserError, match="no weights"):
        trained.load(tmp_path, "encoder")
