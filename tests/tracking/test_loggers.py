"""Curves in the files of each logger, from one short run."""

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import oodgan  # noqa: F401
from oodgan.errors import UserError
from oodgan.ranks import rank
from oodgan.tracking import loggers


def fit_small(folder, logger):
    from small import PointData, Regression

    from oodgan.training.fit import fit

    cfg = {"trainer": {"accelerator": "cpu", "log_every": 1}, "stage": "small", "logger": logger}
    return fit(
        Regression(), PointData(), cfg=cfg, settings={"max_steps": 4, "batch_size": 8, "val_every": 2}, folder=folder
    )


def curve(folder, name):
    with open(folder / "metrics.csv", newline="") as file:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(file) if row["name"] == name}


def test_tensorboard_and_csv_hold_the_same_curves(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit_small(tmp_path, {"kind": "tensorboard"})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name, count in (("train/loss", 4), ("val/loss", 2)):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert len(shown) == count
        assert shown == pytest.approx(curve(tmp_path, name), rel=1e-6)


def test_csv_is_always_there(tmp_path):
    fit_small(tmp_path, {"kind": "csv"})
    assert len(curve(tmp_path, "train/loss")) == 4
    assert not (tmp_path / "tensorboard").exists() and rank() == 0


def test_an_unknown_logger_is_named(tmp_path):
    with pytest.raises(UserError, match="wandb"):
        loggers.build({"kind": "wandbb"}, tmp_path, "small")
