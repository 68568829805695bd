"""Lightning's Trainer and callbacks work as usual, or are refused with a reason."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import GAN, Denoiser, Gan, PointData, Regression

from oodgan.errors import UserError
from oodgan.tracking.loggers import read_csv
from oodgan.training.added import deciding
from oodgan.training.fit import fit

LIGHTNING = "pytorch_lightning.callbacks."


def run(module, folder, steps=8, callbacks=None, resume=None, fit_settings=None, **keywords):
    engine = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "log_every_n_steps": 1, **keywords}
    cfg = {"trainer": engine, "callbacks": callbacks, "seed": 3, "stage": "small"}
    settings = {"max_steps": steps, "batch_size": 8, "val_every": 2, "monitor": "val/loss", **(fit_settings or {})}
    return fit(module, PointData(), cfg=cfg, settings=settings, folder=folder, resume=resume)


def logged(folder, name):
    return [value for _, key, value in read_csv(folder / "metrics.csv") if key == name]


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])


def test_the_error_for_an_unknown_trainer_keyword_suggests_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"unknown keyword of the Trainer 'profiller' \(did you mean 'profiler'"):
        run(Regression(), tmp_path, profiller="simple")


@pytest.mark.parametrize("key", ["max_steps", "val_check_interval", "logger", "use_distributed_sampler", "barebones"])
def test_fixed_trainer_keywords_are_refused_with_the_reason(tmp_path, key):
    with pytest.raises(UserError, match=rf"trainer\.{key} is fixed here: \w+"):
        run(Regression(), tmp_path, **{key: 1})


def test_a_fast_dev_run_writes_nothing(tmp_path):
    seen = []

    class Counted(Regression):
        def training_step(self, batch, batch_idx):
            seen.append("train")
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            seen.append("val")
            return super().validation_step(batch, batch_idx)

    result = run(Counted(), tmp_path / "run", fast_dev_run=True)
    assert result.checkpoint is None and seen == ["train", "val"] and not (tmp_path / "run").exists()


def test_overfit_batches_repeats_the_same_batches(tmp_path):
    seen = []

    class Watched(Regression):
        def training_step(self, batch, batch_idx):
            seen.append(tuple(batch["name"]))
            return super().training_step(batch, batch_idx)

    run(Watched(), tmp_path, overfit_batches=2)
    assert len(seen) == 8 and len(set(seen)) == 2


def test_limited_epochs_train_on_the_same_stream_of_batches(tmp_path):
    whole, parts = Regression(), Regression()
    run(whole, tmp_path / "whole")
    run(parts, tmp_path / "parts", limit_train_batches=3)
    assert torch.equal(weights(whole), weights(parts))


@pytest.mark.parametrize("kind", [Regression, Gan])
def test_lightnings_keywords_set_accumulation_and_clipping_too(tmp_path, kind):
    made = []
    for place, keywords, settings in (
        ("trainer", {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {}),
        ("fit", {}, {"accumulate": 2, "clip": 0.1}),
        ("fit_first", {"accumulate_grad_batches": 4}, {"accumulate": 2, "clip": 0.1}),
        ("other", {}, {}),
    ):
        module = kind()
        run(module, tmp_path / place, fit_settings=settings, **keywords)
        made.append(weights(module))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2]) and not torch.equal(made[0], made[3])


def test_trainer_keywords_with_a_target_are_instantiated(tmp_path):
    strategy = {"_target_": "pytorch_lightning.strategies.SingleDeviceStrategy", "device": "cpu"}
    profiler = {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": str(tmp_path), "filename": "own"}
    run(Regression(), tmp_path / "a", strategy=strategy, profiler=profiler)
    assert "run_training_batch" in next(tmp_path.glob("fit-own*.txt")).read_text()
    run(Regression(), tmp_path / "b", profiler="simple")
    assert "run_training_batch" in next((tmp_path / "b").glob("fit-profile*.txt")).read_text()
    sharded = {"_target_": "pytorch_lightning.strategies.FSDPStrategy", "sharding_strategy": "SHARD_GRAD_OP"}
    with pytest.raises(UserError, match="cannot be built here: The strategy `fsdp` requires a GPU"):
        run(Regression(), tmp_path / "c", strategy=sharded)  # built with its keywords; without a GPU a one-line error


def test_early_stopping_ends_the_run_and_saves_a_checkpoint(tmp_path):
    stop = {"_target_": LIGHTNING + "EarlyStopping", "monitor": "val/loss", "patience": 1, "min_delta": 100.0}
    result = run(Regression(), tmp_path, steps=40, callbacks={"stop": stop}, fit_settings={"checkpoint_every": 30})
    assert result.steps == 4 and (tmp_path / "checkpoints/last.ckpt").is_file()


def test_lightnings_checkpoints_are_written_to_their_own_folder(tmp_path):
    best = {"_target_": LIGHTNING + "ModelCheckpoint", "monitor": "val/loss", "save_top_k": 2, "filename": "{step}"}
    run(Regression(), tmp_path, callbacks={"best": best})
    assert len(list((tmp_path / "model_checkpoints").glob("step=*.ckpt"))) == 2
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_lightnings_summary_progress_bar_and_rate_monitor_work(tmp_path, capfd, caplog):
    shown = {
        "summary": {"_target_": LIGHTNING + "ModelSummary"},
        "bar": {"_target_": LIGHTNING + "TQDMProgressBar"},
        "rates": {"_target_": LIGHTNING + "LearningRateMonitor"},
    }
    run(Regression(), tmp_path, callbacks=shown)
    captured = capfd.readouterr()
    text = captured.out + captured.err + caplog.text
    assert "Trainable params" in text and "Epoch 0" in text and "steps/s" not in text
    assert logged(tmp_path, "lr-Adam")[0] == pytest.approx(0.01)


def test_the_learning_rate_finder_sets_the_rate_and_a_resumed_run_keeps_it(tmp_path):
    finder = {"_target_": LIGHTNING + "LearningRateFinder", "num_training_steps": 20, "max_lr": 1.0}
    cosine = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 1000}
    rates = {"_target_": LIGHTNING + "LearningRateMonitor"}
    module = Denoiser(optimizer={"_target_": "torch.optim.Adam", "lr": 1e-9}, scheduler=cosine)
    result = run(module, tmp_path, callbacks={"finder": finder, "rates": rates})
    assert result.steps == 8 and logged(tmp_path, "lr-Adam")[0] > 1e-7
    assert len(logged(tmp_path, "train/loss")) == 8, "the steps of the search are not logged"
    again = run(Denoiser(scheduler=cosine), tmp_path, 10, {"finder": finder, "rates": rates}, resume="auto")
    assert again.steps == 10
    actual = logged(tmp_path, "lr-Adam")
    assert actual[-1] == pytest.approx(actual[7], rel=0.01), "a resumed run keeps the learning rate"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("BatchSizeFinder", "BatchSizeFinder cannot be used here: it would change fit.batch_size"),
        ("LearningRateFinder", "LearningRateFinder knows one optimiser"),
        ("StochasticWeightAveraging", "it counts epochs"),
    ],
)
def test_unsupported_callbacks_are_refused_with_the_reason(tmp_path, target, message):
    more = {"swa_lrs": 0.1} if target == "StochasticWeightAveraging" else {}
    with pytest.raises(UserError, match=message):
        run(Denoiser(losses=GAN), tmp_path, callbacks={"added": {"_target_": LIGHTNING + target, **more}})


def test_only_settings_that_change_results_are_hashed():
    usual = {"trainer": {"precision": "32-true", "devices": 4, "profiler": "simple", "limit_val_batches": 1.0}}
    watching = {name: {"_target_": LIGHTNING + name} for name in ("LearningRateMonitor", "RichProgressBar")}
    assert deciding({**usual, "callbacks": {**watching, "none": None}}) == {}
    stop = {"_target_": LIGHTNING + "EarlyStopping", "patience": 3}
    assert deciding({"callbacks": {"stop": stop}}) == {"callbacks.stop": stop}
    assert deciding({"callbacks": {"mine": {"_target_": "my.Callback"}}}) == {
        "callbacks.mine": {"_target_": "my.Callback"}
    }
    assert deciding({"trainer": {"precision": "bf16-mixed", "max_time": "00:01:00:00"}}).keys() == {
        "precision",
        "max_time",
    }


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"max_time": "abc"}, "trainer.max_time=abc: DD:HH:MM:SS is expected"),
        ({"devices": "tow"}, "devices=tow: a number, a list of GPUs, or auto is expected"),
        ({"overfit_batches": "abc"}, "trainer.overfit_batches=abc: a number of batches"),
        ({"limit_train_batches": "all"}, "trainer.limit_train_batches=all: a number of batches"),
    ],
)
def test_invalid_trainer_values_are_refused_before_rendering(node, message):
    from omegaconf import OmegaConf

    from oodgan.stages._common import training_hash

    with pytest.raises(UserError, match=message):
        training_hash(OmegaConf.create({"trainer": node}), ())
    good = {"max_time": "00:01:00:00", "devices": "auto", "overfit_batches": 0.5, "limit_val_batches": None}
    assert training_hash(OmegaConf.create({"trainer": good, "seed": 0, "stage": "diffcam"}), ())


def test_a_ddp_strategy_given_by_target_allows_unused_parameters():
    from oodgan.training.engine import strategy

    chosen = {"_target_": "pytorch_lightning.strategies.DDPStrategy", "gradient_as_bucket_view": True}
    assert strategy({"strategy": chosen, "devices": 2}) == {**chosen, "find_unused_parameters": True}
    own = {**chosen, "find_unused_parameters": False}
    assert strategy({"strategy": own}) == own
