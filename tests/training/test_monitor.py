"""The command reports a wrong monitored metric before it renders anything."""

import re
import sys
from types import ModuleType

import pytest

from oodgan.cli import main
from oodgan.diffcam.module import DiffCAMModule
from oodgan.errors import UserError
from oodgan.training.monitor import check_monitors

PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "monitor": "val/x"}
STOPPING = {"_target_": "pytorch_lightning.callbacks.EarlyStopping"}
IMAGES = {
    "_target_": "oodgan.metrics.callback.ImageMetrics",
    "metrics": {"ssim": {"_target_": "oodgan.metrics.similarity.SSIM"}},
}
LOSSES = {
    "code": {"_target_": "oodgan.inversion.losses.CodeLoss"},
    "latent": {"_target_": "oodgan.inversion.losses.LatentLoss"},
    "off": {"_target_": "torch.nn.MSELoss", "weight": 0.0},
}
MODULE = {"_target_": "oodgan.inversion.module.InversionModule", "losses": LOSSES}


def part(monitor="val/loss", **module):
    return {"fit": {"images": {"max_steps": 4, "monitor": monitor, "module": {**MODULE, **module}}}}


def check(config, callbacks):
    check_monitors({"inverter": config, "callbacks": callbacks}, "inverter")


@pytest.mark.parametrize("name", ["val/loss", "val/code", "train/loss", "train/latent", "val/ssim_gauss11"])
def test_a_logged_value_can_be_monitored(name):
    check(part(name), {"metrics": IMAGES, "stopping": {**STOPPING, "monitor": name}})


@pytest.mark.parametrize(
    ("config", "callbacks", "message"),
    [
        (
            part("val/cod"), {"metrics": IMAGES},
            "inverter.fit.images.monitor=val/cod is not logged; "
            "logged are val/code, val/loss, val/ssim_gauss11",
        ),
        (part("val/latent"), {}, "logged are val/code, val/loss"),  # adversarial: not computed in validation
        (part("val/off"), {}, "logged are val/code, val/loss"),
        (part("val/ssim_gauss11"), {}, "logged are val/code, val/loss"),
        (part(scheduler=PLATEAU), {}, "inverter.fit.images.module.scheduler.monitor=val/x is not logged"),
        (part(), {"stop": {**STOPPING, "monitor": "val/x"}}, "callbacks.stop.monitor=val/x is not logged"),
    ],
)  # fmt: skip
def test_monitoring_a_value_that_is_not_logged_is_an_error(config, callbacks, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check(config, callbacks)


def test_user_defined_classes_may_log_any_name(monkeypatch):
    own = ModuleType("own_module")
    own.Derived = type("Derived", (DiffCAMModule,), {})
    own.Declared = type("Declared", (DiffCAMModule,), {"measured": ("mine",)})
    monkeypatch.setitem(sys.modules, "own_module", own)
    check(part("val/anything", _target_="own_module.Derived"), {})
    check(part("val/mine", _target_="own_module.Declared"), {})
    check(part("val/anything"), {"own": {"_target_": "own_module.Derived"}})
    check(part("val/anything", losses=None), {})  # the default losses of the class
    with pytest.raises(UserError, match="val/anything is not logged; logged are val/code, val/loss, val/mine"):
        check(part("val/anything", _target_="own_module.Declared"), {})


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (
            ["diffcam", "diffcam.fit.monitor=val/acuracy"],
            "diffcam.fit.monitor=val/acuracy is not logged",
        ),
        (
            ["inversion", "inverter.fit.codes.monitor=val/x"],
            "inverter.fit.codes.monitor=val/x is not logged; logged are val/code",
        ),
        (
            ["parser", "parser=light", "data=tiny", "parser.fit.monitor=val/iou"],
            "parser.fit.monitor=val/iou is not logged",
        ),
    ],
)
def test_the_command_checks_the_monitor_before_rendering(words, key, tmp_path, capsys):
    stage, *more = words
    with pytest.raises(SystemExit) as stop:
        main([stage, "experiment=tiny", f"root={tmp_path}/runs", *more])
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and key in line, line
    assert (
        not list(tmp_path.rglob("*.ckpt"))
        and not list(tmp_path.rglob("*.npz"))
        and not list(tmp_path.rglob("*.safetensors"))
    )
