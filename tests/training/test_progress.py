"""Progress lines of long work in a log: count, speed and remaining time."""

import re

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from oodgan.training.progress import Meter, Progress, track


def test_a_progress_line_shows_count_speed_and_remaining_time(capsys):
    meter = Meter("render", 4, "images", seconds=0.0)
    for done in range(1, 5):
        meter.show(done, lambda done=done: f"loss {done}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert re.fullmatch(r"render 4/4  [\d.]+ images/s  0 s left  loss 4", lines[-1])


def test_progress_lines_are_limited_in_rate_and_the_last_is_always_shown(capsys):
    assert list(track(range(50), "render", unit="shards")) == list(range(50))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("render 1/50") and last.startswith("render 50/50")


def test_the_text_of_a_progress_line_is_computed_only_when_shown():
    requested = []
    meter = Meter("train", 100)
    for done in range(1, 50):
        meter.show(done, lambda: requested.append(1) or "")
    assert len(requested) == 1


def test_speed_counts_only_the_steps_of_this_run(capsys, monkeypatch):
    times = iter([100.0, 110.0])
    monkeypatch.setattr("oodgan.training.progress.time.monotonic", lambda: next(times))
    Meter("train", 100, done=90).show(95)
    assert "95/100  0.50 steps/s  10 s left" in capsys.readouterr().err


def test_an_iterator_without_length_needs_a_total(capsys):
    assert list(track(iter("abc"), "read", 3)) == list("abc") and "read 3/3" in capsys.readouterr().err
    with pytest.raises(TypeError, match="total="):
        list(track(iter("abc"), "read"))


def test_progress_of_a_predict_loop_counts_images(capsys):
    class Doubled(pl.LightningModule):
        def predict_step(self, batch, _):
            return batch * 2

    engine = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[Progress("double", 0.0)], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    engine.predict(Doubled(), DataLoader(torch.arange(5.0), 2))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("double")]
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"] and "images/s" in lines[0]


def test_the_last_progress_line_shows_the_last_validation_loss(tmp_path, capsys):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))
    from small import PointData, Regression

    from oodgan.tracking.loggers import read_csv
    from oodgan.training.fit import fit

    settings = {"max_steps": 4, "batch_size": 8, "val_every": 2}
    fit(Regression(), PointData(), cfg={"trainer": {"accelerator": "cpu"}}, settings=settings, folder=tmp_path)
    last = [line for line in capsys.readouterr().err.splitlines() if "4/4" in line]
    values = [value for _, name, value in read_csv(tmp_path / "metrics.csv") if name == "val/loss"]
    assert len(last) == 1 and f"val/loss {values[-1]:.4g}" in last[0] and values[0] != values[-1]
