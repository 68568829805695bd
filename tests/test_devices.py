"""The device for edits and rendering: networks are moved there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oodgan import devices
from oodgan.devices import device_of, on_accelerator
from oodgan.errors import UserError


def test_a_missing_accelerator_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of("cpu") == device_of("auto") == "cpu"
    with pytest.raises(UserError, match="accelerator=gpu, but this machine has none"):
        device_of("gpu")


def test_networks_are_moved_to_the_device_and_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []

    class Network(nn.Linear):
        def to(self, device: str) -> Network:  # type: ignore[override]
            moves.append(device)
            return self

        def cpu(self) -> Network:
            moves.append("back")
            return self

    monkeypatch.setattr(devices, "device_of", lambda accelerator: f"the {accelerator}")
    with (
        pytest.raises(ValueError, match="rendering failed"),
        on_accelerator({"accelerator": "gpu"}, Network(1, 1), 7) as device,
    ):
        assert device == "the gpu" and moves == ["the gpu"]
        raise ValueError("rendering failed")
    assert moves == ["the gpu", "back"]
