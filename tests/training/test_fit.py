import resource
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

sys.path.insert(0, str(Path(__file__).parent))
from small import Gan, PointData, Regression, StopAt

from oodgan.errors import UserError
from oodgan.tracking.loggers import read_csv
from oodgan.training import checkpoints
from oodgan.training.fit import fit

CFG = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "small", "seed": 3}


def settings(steps: int, **more):
    return {"max_steps": steps, "batch_size": 8, "val_every": 4, "monitor": "val/loss", **more}


def run(module, folder, steps=12, cfg=None, data=None, resume=None, callbacks=(), **more):
    return fit(
        module,
        data or PointData(),
        cfg={**CFG, **(cfg or {})},
        settings=settings(steps, **more),
        folder=folder,
        resume=resume,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("kind", [Regression, Gan])
@pytest.mark.parametrize("every,crash", [(None, 8), (3, 8)])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, kind, every, crash):
    whole = kind()
    run(whole, tmp_path / "whole", checkpoint_every=every)
    with pytest.raises(RuntimeError, match="crash"):
        run(kind(), tmp_path / "parts", checkpoint_every=every, callbacks=[StopAt(crash)])
    again = kind(seed=9)
    result = run(again, tmp_path / "parts", checkpoint_every=every, resume="auto")
    assert result.steps == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    first, second = (torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("whole", "parts"))
    assert str(first["optimizer_states"]) == str(second["optimizer_states"])
    assert read_csv(tmp_path / "whole/metrics.csv") == read_csv(tmp_path / "parts/metrics.csv")


def test_training_reduces_the_loss_and_keeps_the_best_and_last_checkpoints(tmp_path):
    result = run(Gan(), tmp_path / "run", steps=40)
    values = [v for _, name, v in read_csv(tmp_path / "run/metrics.csv") if name == "val/loss"]
    assert values[-1] < 0.6 * values[0]
    assert result.checkpoint.name == "best.ckpt"
    assert result.metrics["val/loss"] == pytest.approx(values[-1])
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_a_failed_write_leaves_no_partial_checkpoint(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(UserError, match=r"^cannot write .*\.ckpt: File too large"):
            run(Gan(), tmp_path / "run", steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_checkpoints_store_no_frozen_weights(tmp_path):
    module = Regression()
    result = run(module, tmp_path / "run", steps=2)
    saved = checkpoints.load(result.checkpoint)
    assert not [n for n in saved["state_dict"] if n.startswith("teacher")]
    assert saved["frozen"] == {"teacher": module.teacher.hash}


def test_resuming_with_another_frozen_network_is_refused(tmp_path):
    run(Regression(), tmp_path / "run", steps=2)
    other = Regression()
    other.teacher.network[0].weight.data.add_(1)
    with pytest.raises(UserError, match=r"teacher Sequential-\w{8}, but here teacher is Sequential-\w{8}"):
        run(other, tmp_path / "run", resume="auto")


def test_the_error_for_a_nan_loss_names_step_images_and_last_good_checkpoint(tmp_path):
    with pytest.raises(
        UserError, match=r"loss is nan at step 5; .*img17\.png.*last good checkpoint: .*(last|best)\.ckpt"
    ):
        run(Gan(), tmp_path / "run", data=PointData(bad=17), checkpoint_every=1)
    saved = checkpoints.load(tmp_path / "run/checkpoints/last.ckpt")
    assert all(torch.isfinite(v).all() for v in saved["state_dict"].values())


def test_a_run_is_never_overwritten(tmp_path):
    run(Regression(), tmp_path / "run", steps=2)
    with pytest.raises(UserError, match="holds a run already"):
        run(Regression(), tmp_path / "run", steps=2)


def test_a_failing_data_loader_leaves_torchs_classes_unpatched(tmp_path):
    class Unreadable(PointData):
        def train_dataloader(self):
            raise UserError("no images here")

    before = (DataLoader.__init__, DataLoader.__setattr__, BatchSampler.__init__)
    with pytest.raises(UserError, match="no images here"):
        run(Regression(), tmp_path, data=Unreadable())
    assert before == (DataLoader.__init__, DataLoader.__setattr__, BatchSampler.__init__)
