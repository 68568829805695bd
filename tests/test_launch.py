"""How a command's configuration is composed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

from oodgan import launch
from oodgan.errors import UserError

WEIGHTS = ["action=list", "name=[]"]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The mode of each composition that Hydra makes."""
    modes, compose = [], Hydra.compose_config

    def noted(self: Hydra, *arguments: Any, **options: Any) -> Any:
        modes.append(options["run_mode"].name)
        return compose(self, *arguments, **options)

    monkeypatch.setattr(Hydra, "compose_config", noted)
    return modes


@pytest.mark.parametrize(
    ("words", "mode"),
    [([], "RUN"), (["hydra.mode=RUN"], "RUN"), (["-m", "seed=1"], "MULTIRUN"), (["hydra.mode=MULTIRUN"], "MULTIRUN")],
)
def test_a_command_composes_its_configuration_once(
    words: list[str], mode: str, composed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert launch.run("weights", [*WEIGHTS, f"root={tmp_path}", *words]) == 0
    assert composed == [mode]


def test_a_sweep_that_only_a_config_file_asks_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    (tmp_path / "experiment").mkdir()
    own = "# @package _global_\nseed: 1  # ours\nhydra: {mode: MULTIRUN}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(own)
    with pytest.raises(UserError, match=r"hydra\.mode is MULTIRUN in a config file: give -m"):
        launch.run("weights", ["--config-dir", str(tmp_path), "experiment=mine", *WEIGHTS])
