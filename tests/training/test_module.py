"""The base module: optimisers, schedules and losses from the config, and what checkpoints store of them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import GAN, Denoiser, PointData, StopAt

from oodgan.errors import UserError
from oodgan.tracking.loggers import read_csv
from oodgan.training import checkpoints
from oodgan.training.build import build_module, check_trusted
from oodgan.training.fit import fit
from oodgan.training.losses import Losses

SGD = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0, "threshold": 10.0}
WARMUP = {"_target_": "oodgan.training.schedules.warmup_cosine", "warmup": 3, "steps": 12}
L2 = {"_target_": "torch.nn.MSELoss"}


def run(module, folder, steps=12, resume=None, callbacks=(), **more):
    cfg = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "small", "seed": 3}
    settings = {"max_steps": steps, "batch_size": 8, "val_every": 4, "monitor": "val/loss", **more}
    return fit(module, PointData(), cfg=cfg, settings=settings, folder=folder, resume=resume, callbacks=callbacks)


@pytest.mark.parametrize("losses", [{"l2": L2}, GAN], ids=["plain", "gan"])
@pytest.mark.parametrize("scheduler", [PLATEAU, WARMUP, None], ids=["plateau", "warmup", "none"])
def test_each_optimiser_and_schedule_resumes_with_the_same_weights(tmp_path, losses, scheduler):
    make = lambda: Denoiser(losses=losses, optimizer=SGD, scheduler=scheduler)  # noqa: E731
    whole = make()
    run(whole, tmp_path / "whole", export="last")
    with pytest.raises(RuntimeError, match="crash"):
        run(make(), tmp_path / "parts", callbacks=[StopAt(9)], export="last")
    again = make()
    run(again, tmp_path / "parts", resume="auto", export="last")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    one, two = (checkpoints.load(tmp_path / n / "checkpoints/last.ckpt") for n in ("whole", "parts"))
    assert str(one["lr_schedulers"]) == str(two["lr_schedulers"])
    assert len(one["lr_schedulers"]) == (0 if scheduler is None else len(one["optimizer_states"]))
    assert len(one["optimizer_states"]) == (2 if losses is GAN else 1)
    rates = [group["lr"] for state in one["optimizer_states"] for group in state["param_groups"]]
    # With PLATEAU's threshold no validation counts as an improvement, so each of three divides the rate by ten.
    assert rates == pytest.approx([0.05 * {id(PLATEAU): 0.001, id(WARMUP): 0.0}.get(id(scheduler), 1.0)] * len(rates))


def test_losses_are_weighted_and_logged_including_a_user_defined_one(tmp_path):
    own = {"_target_": "small.Tv", "weight": 0.5}
    module = Denoiser(losses={"l2": L2, "tv": own, "never": {"_target_": "no.such.Loss", "weight": 0.0}})
    known = module._known(module.network, {"image": torch.rand(2, 3, 8, 8)})
    values = module.losses(known)
    assert set(values) == {"l2", "tv"}
    assert module.losses.total(values) == values["l2"] + 0.5 * values["tv"]
    run(module, tmp_path, steps=4)
    logged = {name for _, name, _ in read_csv(tmp_path / "metrics.csv")}
    assert logged == {f"{part}/{name}" for part in ("train", "val") for name in ("l2", "tv", "loss")}


def test_the_error_for_a_missing_loss_input_names_the_loss():
    class Wrong(torch.nn.Module):
        inputs = ("resul",)

    with pytest.raises(UserError, match=r"the loss mine needs 'resul'; this training has result, target"):
        Losses({"mine": Wrong()})({"result": torch.ones(1), "target": torch.ones(1)})
    with pytest.raises(UserError, match="all losses have weight 0"):
        Losses({"l2": {**L2, "weight": 0.0}})


def test_the_config_of_a_loss_can_select_its_inputs() -> None:
    known = {"result": torch.ones(1), "target": torch.ones(1), "photo": torch.zeros(1)}
    values = Losses({"l2": L2, "photo": {**L2, "inputs": ["result", "photo"]}})(known)
    assert float(values["l2"]) == 0 and float(values["photo"]) == 1


def test_the_error_for_an_unknown_module_key_names_the_key():
    with pytest.raises(UserError, match=r"unknown key of fit.module \(DiffCAMModule\) 'optimiser' \(did you mean"):
        build_module({"_target_": "oodgan.diffcam.module.DiffCAMModule", "optimiser": SGD}, network=torch.nn.Identity())
    with pytest.raises(UserError, match=r"fit.module names no _target_"):
        build_module({"lr": 1})


@pytest.mark.parametrize("losses", [{"l2": L2}, GAN], ids=["plain", "gan"])
def test_a_module_loads_from_its_checkpoint(tmp_path, losses):
    module = Denoiser(losses=losses, optimizer=SGD, scheduler=WARMUP, strength=0.2)
    result = run(module, tmp_path, steps=4)
    assert checkpoints.load(result.checkpoint)["hyper_parameters"]["strength"] == 0.2
    again = Denoiser.load_from_checkpoint(result.checkpoint)
    assert again.strength == 0.2 and again.hparams.optimizer == SGD and again.hparams.losses == losses
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_checkpoint_can_only_build_trusted_classes(tmp_path):
    result = run(Denoiser(optimizer=SGD), tmp_path, steps=4)
    saved = torch.load(result.checkpoint, weights_only=True)
    saved["hyper_parameters"]["losses"] = {"l2": {"_target_": "os.system", "command": "touch broken"}}
    torch.save(saved, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"names the class os.system for losses.l2"):
        Denoiser.load_from_checkpoint(tmp_path / "bad.ckpt")
    Denoiser.load_from_checkpoint(tmp_path / "bad.ckpt", losses={"l2": L2})
    for target in ("oodgan.launch.run", "builtins.eval", "subprocess.Popen", "not_imported.Network"):
        with pytest.raises(UserError, match="names the class"):
            check_trusted({"network": {"_target_": target}})
    check_trusted({"network": {"_target_": "small.Tv"}, "g": {"_target_": "oodgan.generators.stylegan2.tiny"}})
    recogniser = {"_target_": "oodgan.nn.facenet.FaceNet"}
    check_trusted({"identity": {"_target_": "oodgan.nn.facenet.IdentityLoss", "recogniser": recogniser}})
