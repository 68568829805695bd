"""`config=` runs a saved configuration again."""

from __future__ import annotations

import pytest
import yaml
from omegaconf import OmegaConf

from oodgan.command import saved
from oodgan.errors import UserError
from oodgan.launch import compose, config_folder


@pytest.fixture
def saved_run(tmp_path):
    cfg = compose("diffcam", ["experiment=tiny", "run=one", "seed=4", "diffcam.fit.lr=0.5", f"root={tmp_path}"])
    (tmp_path / "one" / "diffcam").mkdir(parents=True)
    with saved.beside(cfg):
        pass
    return tmp_path


def compose_saved(place, *words):
    """Returns the configuration that `oodgan diffcam words` would run."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with (
        saved.primary(list(words), config_folder(), "diffcam") as (folder, left),
        initialize_config_dir(str(folder), version_base="1.3"),
    ):
        return hydra_compose("config", overrides=["stage=diffcam", *left])


def test_a_saved_config_composes_to_the_same_values(saved_run):
    for named in (saved_run / "one" / "diffcam" / "config.yaml", saved_run / "one" / "diffcam", saved_run / "one"):
        cfg = compose_saved(saved_run, f"config={named}", "run=two")
        first = OmegaConf.load(saved_run / "one" / "diffcam" / "config.yaml")
        assert cfg.folder == f"{saved_run}/two/diffcam" and cfg.diffcam.fit.lr == 0.5 and cfg.seed == 4
        assert cfg.resume is None
        for group in ("generator", "inverter", "directions", "diffcam", "deghoster", "data", "trainer"):
            assert OmegaConf.to_container(cfg[group]) == OmegaConf.to_container(first[group])


def test_other_overrides_take_precedence_over_a_saved_config(saved_run):
    cfg = compose_saved(saved_run, f"config={saved_run}/one/diffcam", "diffcam=light", "trainer=ddp", "seed=5")
    assert cfg.diffcam.size == 128 and cfg.diffcam.fit.lr != 0.5 and cfg.seed == 5
    assert cfg.trainer.strategy == "ddp" and cfg.inverter.name == "tiny"


def test_a_resolved_config_of_a_training_is_accepted(saved_run, tmp_path):
    cfg = compose("diffcam", ["experiment=tiny", "run=one", "diffcam.fit.lr=0.5", f"root={tmp_path}"])
    plain = OmegaConf.to_container(cfg, resolve=True)
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({**plain, "fit": plain["diffcam"]["fit"]}))
    cfg = compose_saved(saved_run, f"config={tmp_path}/fit.yaml", "run=three")
    assert cfg.folder == f"{tmp_path}/three/diffcam" and cfg.diffcam.fit.lr == 0.5 and "fit" not in cfg


@pytest.mark.parametrize("content", [None, "- 1\n", "a: [\n"])
def test_the_error_for_a_file_that_is_not_a_config_names_the_key(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="config="):
        compose_saved(tmp_path, f"config={tmp_path}")
