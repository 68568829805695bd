"""Fixtures of the edit stage: a small editor with a random 32 px generator, optimisation and a full mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from oodgan import editing
from oodgan.cli import main
from oodgan.directions.bank import Bank
from oodgan.editing import Editor
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.inverter import OptimisationInverter
from oodgan.inversion.refine import Refinement


def everywhere(inverted: Tensor, edited: Tensor, names: Sequence[str], photo: Tensor) -> Tensor:
    return torch.ones_like(photo[:, :1])


PARTS = ["generator=tiny", "inverter=optimisation", "diffcam.weights=null", "deghoster=none", "directions=sefa"]


@pytest.fixture(scope="module")
def small_editor() -> Editor:
    return build_editor()


def build_editor() -> Editor:
    torch.manual_seed(0)
    generator = StyleGAN2(resolution=32).eval().requires_grad_(False)
    vectors = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    bank = Bank(("smile", "age"), vectors, generator.id, generator.id)
    refinement = Refinement(steps=1, size=32, losses={"l2": 1.0, "lpips": 0.0, "identity": 0.0})
    return Editor(generator, OptimisationInverter(generator, refinement), bank, everywhere)  # type: ignore[arg-type]


@pytest.fixture
def oodgan(small_editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`oodgan("photo.png", "save=[mask]")`: run the edit stage on a 32 px editor in an empty folder; the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(editing.Editor, "from_config", classmethod(lambda cls, cfg: small_editor))

    def run(*words: str, aligned: bool = True) -> int:
        with pytest.raises(SystemExit) as stop:
            output = [] if any(word.startswith("output=") for word in words) else ["output=out"]
            main(["edit", *words, *PARTS, f"aligned={str(aligned).lower()}", *output])
        return int(stop.value.code or 0)

    return run


@pytest.fixture
def photos(tmp_path: Path, draw_face: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    draw_face(1, size=48).save(folder / "a.png")
    draw_face(2, size=64).save(folder / "more" / "b.jpg")
    return folder
