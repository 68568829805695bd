"""Directions from the files of StyleCLIP (Patashnik et al. 2021): global directions in style space, and mappers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.generators.ops import EqualLinear, PixelNorm
from oodgan.generators.protocol import STYLE_DIM
from oodgan.weights.checkpoint import read

ALPHA = 4.0
"""Length of strength 1 along a global direction, in StyleCLIP's unit: deviations of the channel that changes most."""

BETA = 0.1
"""Channels below this relevance do not change."""

STEP = 0.1
"""Factor of a mapper's output in StyleCLIP's own edits."""

_LEVELS = {
    "mapping": slice(None), "course_mapping": slice(0, 4), "medium_mapping": slice(4, 8), "fine_mapping": slice(8, None)
}  # fmt: skip
_CODES = 1000  # more codes do not change the mean


def global_direction(relevance: Tensor, text: Tensor, deviations: Sequence[Tensor], beta: float = BETA) -> list[Tensor]:
    """Return a step in style space, one vector a style layer, at StyleCLIP's alpha of 1 (section 6 of the paper).

    Args:
        relevance: (channels of all convolutions, D), the effect of each channel in CLIP's space (`fs3.npy`).
        text: (D,), the target text's CLIP feature minus the neutral text's.
        deviations: standard deviation of each channel, one vector a style layer, ToRGB's too (`S_mean_std`).
        beta: smallest relevance of a channel that changes.

    Raises:
        UserError: shapes that do not fit, or no relevant channel.
    """
    text = text.flatten()
    convolutions = [i for i in range(len(deviations)) if i % 3 != 1]  # ToRGB comes second at each resolution
    channels = sum(deviations[i].numel() for i in convolutions)
    if relevance.ndim != 2 or tuple(relevance.shape) != (channels, text.numel()):
        raise UserError(
            f"the relevance of channels has shape {tuple(relevance.shape)}: ({channels}, {text.numel()}) expected by "
            "the deviations and the text"
        )
    change = relevance @ (text / text.norm())
    change = torch.where(change.abs() < beta, 0.0, change)
    if not bool(change.any()):
        raise UserError(f"beta={beta:g}: no channel is as relevant for this text; the largest is "
                        f"{float((relevance @ (text / text.norm())).abs().max()):.3f}")  # fmt: skip
    parts = iter((change / change.abs().max()).split([deviations[i].numel() for i in convolutions]))
    return [s.flatten() * (next(parts) if i in convolutions else 0.0) for i, s in enumerate(deviations)]


def read_deviations(path: str | Path) -> list[Tensor]:
    """Return the standard deviations in a file `S_mean_std`: one vector a style layer. Nothing in it is executed.

    Raises:
        UserError: another kind of file.
    """
    with reading(path, "file S_mean_std"):
        content = read(path, "expected StyleCLIP's S_mean_std, a pickle of [means, deviations]")
        layers = content[1] if isinstance(content, list | tuple) and len(content) == 2 else None
        if not isinstance(layers, list | tuple) or not all(isinstance(s, np.ndarray | Tensor) for s in layers):
            raise UserError("it is not StyleCLIP's S_mean_std, a pickle of [means, deviations]")
        return [torch.as_tensor(s).float().flatten() for s in layers]


@torch.no_grad()
def mapper_direction(checkpoint: Any, codes: Tensor) -> tuple[Tensor, float]:
    """Return the mean step (L, 512) of a latent mapper over codes, and the steps' mean cosine with it.

    A mapper's step depends on the code; the mean is what all codes have in common.

    Args:
        checkpoint: {"state_dict": tensors} of StyleCLIP's mapper, for all layers or by levels.
        codes: (N, L, 512), such as `test_faces.pt`.

    Raises:
        UserError: codes of another shape, or a mapper of another kind.
    """
    if codes.ndim != 3 or codes.shape[2] != STYLE_DIM or codes.shape[1] < 9:
        raise UserError(f"codes of shape {tuple(codes.shape)}: (N, L, {STYLE_DIM}) with 9 or more layers expected")
    codes = codes[:_CODES].float()
    steps = torch.zeros_like(codes)
    for level, network in _mappers(checkpoint).items():
        steps[:, _LEVELS[level]] = STEP * network(codes[:, _LEVELS[level]])
    mean = steps.mean(0)
    agreement = torch.cosine_similarity(steps.flatten(1), mean.flatten()[None]).mean()
    return mean, float(agreement)


def _mappers(checkpoint: Any) -> dict[str, nn.Module]:
    """Return the networks of a checkpoint by their level."""
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else {}
    tensors = {str(name)[7:]: t for name, t in state.items() if str(name).startswith("mapper.")}
    networks: dict[str, nn.Module] = {}
    for level in dict.fromkeys(name.partition(".")[0] for name in tensors):
        own = {name.removeprefix(f"{level}.mapping."): t for name, t in tensors.items() if name.startswith(f"{level}.")}
        network = nn.Sequential(
            PixelNorm(), *(EqualLinear(STYLE_DIM, STYLE_DIM, lr=0.01, activation=True) for _ in range(4))
        )
        shapes = {name: t.shape for name, t in network.state_dict().items()}
        if level not in _LEVELS or {name: getattr(t, "shape", None) for name, t in own.items()} != shapes:
            raise UserError(f"its mapper.{level} is no mapper of W+ codes; mappers in style space cannot be imported")
        network.load_state_dict(own)
        networks[level] = network
    if not networks:
        raise UserError("it holds no StyleCLIP mapper: tensors named mapper.* expected")
    return networks
