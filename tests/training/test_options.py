import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import Gan, PointData, Regression
from torch import nn

from oodgan.errors import UserError
from oodgan.nn.ema import Ema
from oodgan.nn.frozen import Frozen, frozen_hashes
from oodgan.tracking.loggers import read_csv
from oodgan.training import checkpoints
from oodgan.training.fit import fit, initialise


def run(module, folder, steps=10, engine=None, **more):
    cfg = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1, **(engine or {})}, "seed": 3, "stage": "small"}
    chosen = {"max_steps": steps, "batch_size": 8, "val_every": 5, "monitor": "val/loss", **more}
    return fit(module, PointData(), cfg=cfg, settings=chosen, folder=folder)


def losses(folder, name="val/loss"):
    return [value for _, key, value in read_csv(folder / "metrics.csv") if key == name]


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])


@pytest.mark.parametrize(
    "engine,settings",
    [
        ({"precision": "bf16-mixed"}, {}),
        ({"precision": "16-mixed"}, {"clip": 1.0}),
        ({"channels_last": True}, {}),
        ({}, {"clip": 0.1, "accumulate": 2}),
        ({}, {"precision": "64-true"}),
    ],
    ids=["bf16", "fp16_clip", "channels_last", "clip_accumulate", "settings_precision"],
)
@pytest.mark.parametrize("kind", [Regression, Gan])
def test_training_works_with_each_precision_and_clipping_option(tmp_path, kind, engine, settings):
    run(kind(), tmp_path, engine=engine, **settings)
    result = losses(tmp_path)
    assert len(result) == 2 and result[1] < result[0]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)],
)
def test_the_forward_pass_runs_in_the_chosen_precision(tmp_path, precision, dtype):
    seen = set()

    class Watched(Regression):
        def training_step(self, batch, batch_idx):
            seen.add(self.net(batch["image"]).dtype)
            return super().training_step(batch, batch_idx)

    module = Watched()
    run(module, tmp_path, steps=2, engine={"precision": precision})
    assert seen == {dtype} and weights(module).dtype == torch.float32


def test_synchronised_batch_norm_on_several_cpu_processes_is_refused():
    from oodgan.training.engine import prepare

    module = Regression()
    module.norm = nn.BatchNorm2d(3)
    engine = {"sync_batchnorm": True, "accelerator": "cpu", "devices": 2}
    with pytest.raises(UserError, match="batch norm needs GPUs"):
        prepare(module, engine)
    prepare(module, {**engine, "sync_batchnorm": False})


@pytest.mark.slow
def test_compiled_networks_train_and_save_under_the_same_names(tmp_path):
    module = Gan()
    result = run(module, tmp_path, engine={"compile": True})
    actual = losses(tmp_path)
    assert actual[1] < actual[0]
    assert set(checkpoints.load(result.checkpoint)["state_dict"]) == set(Gan().state_dict())


@pytest.mark.parametrize("kind", [Regression, Gan])
def test_accumulated_batches_give_the_same_step_as_the_whole_batch(tmp_path, kind):
    modules = []
    for name, accumulate in (("whole", 1), ("split", 4)):
        module = kind(noise=0.0) if kind is Gan else kind()
        if kind is Regression:
            module.drop.p, module.noise = 0.0, 0.0
        modules.append(module)
        result = run(module, tmp_path / name, steps=3, accumulate=accumulate)
        assert result.steps == 3
    assert torch.allclose(weights(modules[0]), weights(modules[1]), atol=2e-5)


def test_clipping_limits_the_step_of_manual_optimisation(tmp_path):
    class Sgd(Gan):
        def configure_optimizers(self):
            return [torch.optim.SGD(n.parameters(), 1.0) for n in (self.net, self.critic)]

    module = Sgd()
    before = weights(module)
    run(module, tmp_path, steps=1, clip=1e-3)
    moved = (weights(module) - before).norm()
    assert 1e-4 < moved <= 2e-3


def test_a_batch_size_that_accumulate_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"batch_size is 8.*multiple of 3"):
        run(Regression(), tmp_path, accumulate=3)


def test_initialise_copies_the_weights_of_another_run(tmp_path):
    first = run(Regression(), tmp_path / "a")
    fresh = Regression(seed=5)
    initialise(fresh, tmp_path / "a")
    saved = checkpoints.load(first.checkpoint)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in fresh.state_dict().items())
    with pytest.raises(UserError, match="do not fit this module"):
        initialise(Gan(), tmp_path / "a")


def test_a_frozen_network_stays_frozen_and_changes_dtype_with_its_owner():
    owner = nn.ModuleList([nn.Linear(2, 2), Frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))])
    owner.train().requires_grad_(True).to(torch.float64)
    frozen = owner[1]
    assert not frozen.network.training and not frozen.network[1].training
    assert frozen.network[0].weight.dtype == torch.float64
    assert not any(p.requires_grad for p in frozen.network.parameters())
    assert list(owner.state_dict()) == ["0.weight", "0.bias"]
    assert len(list(owner.parameters())) == 2
    x = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_frozen_passes_attributes_through_and_hashes_the_weights():
    network = nn.Linear(2, 2)
    same = nn.Linear(2, 2)
    same.load_state_dict(network.state_dict())
    assert Frozen(network).in_features == 2
    assert Frozen(network).hash == Frozen(same).hash != Frozen(nn.Linear(2, 2)).hash
    network.id = "net-1"
    assert frozen_hashes(nn.ModuleDict({"g": Frozen(network)})) == {"g": "net-1"}
    with pytest.raises(AttributeError):
        _ = Frozen(network).nothing


def test_ema_averages_weights_and_shares_frozen_parts():
    net = nn.Sequential(nn.Linear(2, 2), Frozen(nn.Linear(2, 2)))
    ema = Ema(net, decay=0.5, warmup=False)
    start = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    ema.update()
    assert torch.allclose(ema.module[0].weight, start + 0.5)
    assert ema.module[1] is net[1]
    assert not ema.train().module.training
    with pytest.raises(ValueError, match="decay"):
        Ema(net, decay=1.0)
