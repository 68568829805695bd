"""The inversion stage's last phase: a feature encoder is trained, saved, loaded, and used by an editor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oodgan import launch
from oodgan.editing import Editor
from oodgan.errors import UserError
from oodgan.inversion.feature_module import FeatureModule
from oodgan.tracking.artifacts import Manifest

INVERTER = "inverter=tiny_feature"


@pytest.mark.slow
def test_an_editor_uses_both_encoders_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as the command sets it: errors are raised
    common = ["experiment=tiny", INVERTER, f"root={tmp_path}"]
    assert launch.run("inversion", common) == 0
    artifact = tmp_path / "tiny" / "inversion" / "artifact"
    manifest = Manifest.load(artifact)
    assert "feature_encoder/weights.safetensors" in manifest.files
    assert {"codes/val/loss", "features/val/l2", "features/val/activations"} <= set(manifest.metrics)

    (checkpoint,) = (artifact.parent / "training").glob("features-*/checkpoints/best.ckpt")
    module = FeatureModule.load_from_checkpoint(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in saved.items())
    assert module(torch.zeros(1, 3, 32, 32), module.generator.mean_w.expand(1, 8, -1)).shape[2:] == (8, 8)
    with pytest.raises(UserError, match="this module has no inverter"):
        module.predictions(module.network, {"image": torch.zeros(1, 3, 32, 32)})

    capsys.readouterr()
    assert launch.run("inversion", common) == 0 and "up to date" in capsys.readouterr().err
    trained = [f"inverter.weights={artifact}", f"inverter.residual.weights={artifact}"]
    assert launch.run("transfer", [*common, "transfer=tiny", *trained]) == 0
    transferred = Manifest.load(tmp_path / "tiny" / "transfer" / "artifact")
    assert {"val/l2", "val/l2_whole", "val/size"} <= set(transferred.metrics) and transferred.counts == {"samples": 16}

    refused = [*common, *trained, "transfer=tiny", f"folder={tmp_path}/no"]
    with pytest.raises(UserError, match=r"^transfer.strength has no effect: it scales a trained network's answer"):
        launch.run("transfer", [*refused, "transfer.strength=0.5"])
    with pytest.raises(UserError, match=r"^transfer.samples.photos=8: the data has 0 training photos with parsing"):
        launch.run("transfer", [*refused, "transfer.samples.photos=8"])

    words = ["experiment=tiny", INVERTER, *trained, "transfer=tiny", f"transfer.weights={tmp_path}/tiny/transfer"]
    words += ["diffcam.weights=null", "deghoster=none", "code_cache=0"]
    editor_cfg = launch.compose("edit", words)
    from oodgan import directions, generators
    from oodgan.inversion import cache, transfer

    generator = generators.build(editor_cfg.generator)
    bank = directions.build(editor_cfg.directions, generator)
    editor = Editor(
        generator,
        cache.build(editor_cfg, generator),
        bank,
        everywhere,
        transfer=transfer.build(editor_cfg.transfer, generator),
    )  # type: ignore[arg-type]
    photo = generator.synthesis(generator.mean_w.expand(1, generator.num_ws, -1))[0].clamp(-1, 1)
    edit = editor.edit(photo, {bank.names[0]: 1.0}, aligned=True)
    assert list(edit.inversion.residuals) == [8] and edit.inversion.residuals[8].any()
    plain = generator.synthesis(edit.w_plus).clamp(-1, 1)
    inverted = edit.tensors["inverted"]
    assert not torch.equal(inverted, plain)
    assert float((inverted - photo).square().mean()) < float((plain - photo).square().mean())
    assert not torch.equal(edit.tensors["edited"], inverted) and edit.tensors["result"].shape == inverted.shape


def everywhere(inverted, edited, names, photo):
    return torch.ones_like(photo[:, :1])
