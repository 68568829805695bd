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


def fit_small(folder, logger, **more):
    from small import PointData, Regression

    from oodgan.training.fit import fit

    cfg = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "small", "logger": logger, **more}
    return fit(
        Regression(), PointData(), cfg=cfg, settings={"max_steps": 4, "batch_size": 8, "val_every": 2}, folder=folder
    )


def curve(folder, name):
    with open(folder / "metrics.csv", newline="") as file:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(file) if row["name"] == name}


TENSORBOARD = {"_target_": "pytorch_lightning.loggers.TensorBoardLogger"}
CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger", "flush_logs_every_n_steps": 1}


def test_several_loggers_record_the_same_curves(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit_small(tmp_path, {"tensorboard": TENSORBOARD, "lightning_csv": CSV})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name, count in (("train/loss", 4), ("val/loss", 2)):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert len(shown) == count
        assert shown == pytest.approx(curve(tmp_path, name), rel=1e-6)
        with open(tmp_path / "csv/metrics.csv", newline="") as file:
            wide = {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}
        assert wide == pytest.approx(curve(tmp_path, name), rel=1e-6)


def test_the_csv_log_is_always_written(tmp_path):
    fit_small(tmp_path, {"csv": {"_target_": "oodgan.tracking.loggers.CsvLog"}}, sweep="lr")
    assert len(curve(tmp_path, "train/loss")) == 4
    assert loggers.run_identity(tmp_path)["group"] == "lr"  # the sweep's name, with any logger
    assert not (tmp_path / "tensorboard").exists() and rank() == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("wandbb", r"logger\.mine=wandbb: a config of a logger expected"),
        ({**TENSORBOARD, "log_grap": True}, r"unknown key of logger\.mine 'log_grap' \(did you mean 'log_graph'"),
        ({"_target_": "pytorch_lightning.loggers.WandbLogger", "note": "x"}, r"'note' \(did you mean 'notes'"),
    ],
)
def test_the_error_for_a_wrong_logger_entry_names_it(tmp_path, entry, message):
    with pytest.raises(UserError, match=message):
        loggers.build({"mine": entry}, tmp_path, "small")


def test_the_error_for_an_unreachable_wandb_suggests_offline_mode(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    entry = {"wandb": {"_target_": "pytorch_lightning.loggers.WandbLogger", "project": "p", "offline": None}}
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached .*logger.wandb.offline=true"):
        loggers.build(entry, tmp_path, "small")
    entry["wandb"]["offline"] = True
    assert len(loggers.build(entry, tmp_path, "small")) == 2


def test_a_wandb_login_is_detected_without_importing_wandb(tmp_path, monkeypatch):
    """Importing wandb for this would fix its settings, and a later offline run would fail."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert not loggers.logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert loggers.logged_in() and "wandb" not in sys.modules


@pytest.mark.parametrize(
    ("mode", "logged_in", "configured", "offline"),
    [
        ("", False, None, True),
        ("", True, None, False),
        ("offline", True, None, True),
        ("dryrun", True, None, True),
        ("disabled", False, None, False),  # wandb writes nothing in this mode
        ("online", True, None, False),
        ("online", True, True, True),
        ("online", False, None, "WANDB_MODE=online, but wandb is not logged in: run wandb login"),
        ("offlien", True, True, r"unknown WANDB_MODE 'offlien' \(did you mean 'offline'"),
    ],
)
def test_mode_login_and_config_decide_whether_a_wandb_run_is_offline(
    tmp_path, monkeypatch, mode, logged_in, configured, offline
):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(loggers, "logged_in", lambda: logged_in)
    monkeypatch.setattr(loggers, "_reach_wandb", lambda: None)
    entry = {"wandb": {"_target_": "pytorch_lightning.loggers.WandbLogger", "offline": configured}}
    if isinstance(offline, str):
        with pytest.raises(UserError, match=offline):
            loggers.build(entry, tmp_path, "small")
        with pytest.raises(UserError, match=offline):  # a stage checks this before it renders anything
            loggers.check_wandb(entry)
    else:
        logger = loggers.build(entry, tmp_path, "small")[1]
        assert logger._offline is offline


def test_wandb_writes_nothing_when_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads WANDB_MODE once per process
    try:
        fit_small(tmp_path, {"wandb": {"_target_": "pytorch_lightning.loggers.WandbLogger"}})
    finally:
        wandb.teardown()
    assert len(curve(tmp_path, "train/loss")) == 4
    assert not list(tmp_path.rglob("*.wandb"))
