"""Training checkpoints can be used wherever weights can, and load as modules from the file alone."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import oodgan  # noqa: F401
from oodgan import launch
from oodgan.errors import UserError
from oodgan.weights import trained

WORDS = ["experiment=tiny"]
PARTS = {"inversion": "encoder", "diffcam": "diffcam", "deghost": "deghoster"}


def run(root, stage, *words):
    os.environ["HYDRA_FULL_ERROR"] = "1"
    return launch.run(stage, [*WORDS, f"root={root}", *words])


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The tiny chain, briefly trained; of Diff-CAM only the head, as by default."""
    root = tmp_path_factory.mktemp("chain")
    run(root, "inversion", "inverter.fit.images.max_steps=0")
    run(root, "diffcam", "diffcam.network.trainable_from=23", "diffcam.fit.max_steps=8", "diffcam.fit.val_every=2")
    weights = [f"inverter.weights={root}/tiny/inversion/artifact", f"diffcam.weights={root}/tiny/diffcam/artifact"]
    run(root, "ghosts", *weights, "diffcam.network.trainable_from=23")
    run(root, "deghost", "deghoster.fit.max_steps=4", "deghoster.fit.val_every=2")
    return root / "tiny"


def best(chain, stage):
    (path,) = (chain / stage).glob("training/*/checkpoints/best.ckpt")
    return path


@pytest.mark.slow
def test_a_checkpoint_is_loaded_from_a_remote_url(chain, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path))
    path = best(chain, "diffcam")
    fsspec.filesystem("memory").put(str(path), "/checkpoints/best.ckpt")
    here, there = (trained.load(source, "diffcam")[0] for source in (path, "memory://checkpoints/best.ckpt"))
    assert here.keys() == there.keys() and all(torch.equal(there[name], here[name]) for name in here)


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(PARTS))
def test_a_checkpoint_holds_the_same_weights_as_the_artifact(chain, stage):
    """The artifact holds the best checkpoint in half precision; each folder above the file stands for it too."""
    artifact, exported = trained.load(chain / stage / "artifact", PARTS[stage])
    path = best(chain, stage)
    for source in (path, path.parent, path.parents[1]):
        tensors, metadata = trained.load(source, PARTS[stage])
        assert exported == metadata
        tensors = {name.removeprefix("network."): value for name, value in tensors.items()}
        assert tensors.keys() == {name.removeprefix("network.") for name in artifact}
        for name, value in artifact.items():
            torch.testing.assert_close(tensors[name.removeprefix("network.")], value, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match=f"holds {PARTS[stage]} weights, generator weights are needed"):
        trained.load(path, "generator")


@pytest.mark.slow
def test_checkpoints_work_as_weights_in_editing_and_further_training(chain, tmp_path):
    from oodgan.editing import Editor
    from oodgan.generators.protocol import sample_codes

    words = [f"{group}.weights={best(chain, stage)}" for stage, group in
             (("inversion", "inverter"), ("diffcam", "diffcam"), ("deghost", "deghoster"))]  # fmt: skip
    cfg = launch.compose("edit", [*WORDS, *words, "diffcam.network.trainable_from=23", "input=x", "edits={x: 1}"])
    editor = Editor.from_config(cfg)
    photo = editor.generator.synthesis(sample_codes(editor.generator, 1, 0)).clamp(-1, 1)[0]
    edit = editor.edit(photo, {editor.names[0]: 1.0}, aligned=True)
    assert edit.tensors["result"].isfinite().all()
    again = ["deghoster.fit.continue_from_weights=true", words[2], "deghoster.fit.lr=0", f"folder={tmp_path}"]
    again += ["deghoster.fit.module.discriminator_optimizer.lr=0", f"deghoster.ghosts_from={chain}/ghosts/artifact"]
    run(chain.parent, "deghost", *again, "deghoster.fit.max_steps=1", "deghoster.fit.val_every=1")
    (last,) = tmp_path.glob("training/*/checkpoints/last.ckpt")
    first, second = (torch.load(p, weights_only=True)["state_dict"] for p in (best(chain, "deghost"), last))
    critic = [name for name in first if name.startswith("discriminator.")]
    assert critic and all(torch.equal(first[name], second[name]) for name in critic)


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(PARTS))
def test_a_module_loads_from_its_checkpoint_file_alone(chain, stage):
    from oodgan.deghost.module import DeghostModule
    from oodgan.diffcam.module import DiffCAMModule
    from oodgan.inversion.module import InversionModule

    kind = {"inversion": InversionModule, "diffcam": DiffCAMModule, "deghost": DeghostModule}[stage]
    module = kind.load_from_checkpoint(best(chain, stage))
    saved = torch.load(best(chain, stage), weights_only=True)
    assert saved["hyper_parameters"]["optimizer"]["_target_"].startswith("torch.optim.")
    state = module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in saved["state_dict"].items())
    assert module.configure_optimizers()


def test_the_error_for_a_checkpoint_of_another_project_names_the_convert_command(tmp_path):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.0"}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not converted yet: oodgan weights convert"):
        trained.load(tmp_path / "other.ckpt", "encoder")
