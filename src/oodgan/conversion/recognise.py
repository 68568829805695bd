"""Recognises a public checkpoint by its content, and splits it into networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oodgan.conversion import backbones, encoders, paper, stylegan2
from oodgan.conversion.encoders import FIRST
from oodgan.conversion.part import Recognised
from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.weights.checkpoint import Persistent


def recognise(content: Any, to: str | None = None) -> Recognised:
    """Recognise the content of a checkpoint. `to` is the encoder variant if the file does not say.

    Raises:
        UserError: unknown content, or an unsupported size or kind; the message says which.
    """
    with reading(None, "the content"):
        return _recognise(content, to)


def _recognise(content: Any, to: str | None) -> Recognised:
    if isinstance(content, Mapping) and isinstance(content.get("G_ema"), Persistent):
        return stylegan2.nvlabs(content)
    if not isinstance(content, Mapping):
        raise UserError(f"it holds a {type(content).__name__}; expected a dictionary of tensors")
    if isinstance(content.get("g_ema"), Mapping):
        return stylegan2.rosinality(content)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise UserError("its state_dict is not a dictionary of tensors")
    names = [str(name) for name in state]
    tensors = {str(name): t for name, t in state.items() if isinstance(t, Tensor)}
    if any(f"encoder.{first}" in tensors for first in FIRST) and any(n.startswith("decoder.") for n in names):
        return encoders.encoder(content, tensors, to)
    if any(n.startswith("FCN.encoder.") for n in names):
        return paper.deghoster(tensors)
    if any(n.startswith("generator_ema.") for n in names):
        return stylegan2.mmgen(tensors)
    if "style.1.weight" in tensors and "conv1.conv.weight" in tensors:
        return Recognised("a StyleGAN2 generator in rosinality's layout", [stylegan2.generator_part(tensors, None)])
    if "shared.0.weight" in tensors and "fc.weight" in tensors:
        return paper.diffcam(tensors)
    if FIRST[0] in tensors and "output_layer.3.weight" in tensors:
        return backbones.recogniser(tensors)
    if recognised := backbones.backbone(tensors):
        return recognised
    known = "StyleGAN2, pSp/e4e/ReStyle, Diff-CAM, deghoster, LPIPS, ArcFace IR-SE50, VGG, AlexNet or ResNet weights"
    raise UserError(f"it holds {_glimpse(names)}; expected {known}")


def _glimpse(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} entries ({shown}{', ...' if len(names) > 3 else ''})" if names else "nothing"
