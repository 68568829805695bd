"""An editor of small random networks with every part that is exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from oodgan.deghost.light import LightDeghoster
from oodgan.deghost.remover import Remover
from oodgan.diffcam.masks import Masker
from oodgan.diffcam.network import DiffCAM
from oodgan.directions.bank import Bank
from oodgan.editing import Editor
from oodgan.generators.stylegan2 import tiny
from oodgan.inversion.inverter import EncoderInverter
from oodgan.inversion.light import LightEncoder


def _make_editor(**more: Any) -> Editor:
    torch.manual_seed(0)
    generator = tiny()
    vectors = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    bank = Bank(("smile", "age"), vectors, generator.id, generator.id)
    encoder = LightEncoder(generator.num_ws, hidden=32, rank=4, pretrained=False, size=64)
    deghoster = LightDeghoster(generator, widths=(8, 16), prior=(16,), prior_width=8)
    torch.nn.init.normal_(deghoster.out.weight, std=0.1)
    network = DiffCAM("alexnet", 2, layers=[1])  # at 64 px the last layers' feature maps are a single pixel
    network.fc.weight.data.abs_()  # otherwise the maps may contain only rounding errors, which a mask would amplify
    masker = Masker(network, bank.names, size=64, kind="paper")
    parts = (EncoderInverter(generator, encoder), bank, masker, Remover(deghoster), {"mode": "paper"})
    return Editor(generator, *parts, **more)


@pytest.fixture
def editor() -> Editor:
    return _make_editor()


@pytest.fixture
def make_editor() -> Callable[..., Editor]:
    """Builds the same editor again; keywords are passed to `Editor`."""
    return _make_editor
