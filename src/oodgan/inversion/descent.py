"""The optimisation behind every refinement of an inversion: Adam from 0 within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from oodgan.errors import UserError

_MOST_STEPS = 10_000  # where only seconds limit them


def check_budget(key: str, steps: int, seconds: float | None) -> None:
    """Raise UserError for a budget that is no budget; `key` names the group of its keys."""
    if steps < 0 or (seconds is not None and seconds <= 0):
        raise UserError(f"{key}.steps={steps}, {key}.seconds={seconds}: steps >= 0 and seconds > 0 expected")


def descend(
    losses: Callable[[Tensor], Tensor],
    like: Tensor,
    lr: float,
    steps: int,
    seconds: float | None,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Tensor:
    """Return offsets of the shape of `like` (B, ...): for each row, the one with the row's own lowest loss.

    Args:
        losses: offsets -> (B,), differentiable.
        lr: learning rate at the start; it falls to a tenth by a cosine.
        steps: number of steps; 0: as many as `seconds` allow.
        seconds: limit for the whole batch; None: no limit.
    """
    offset = torch.zeros_like(like, requires_grad=True)
    optimiser = torch.optim.Adam([offset], lr, betas=betas)
    steps, begun = steps or _MOST_STEPS, time.monotonic()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, lr * 0.1)
    best, lowest = torch.zeros_like(like), torch.full((len(like),), torch.inf, device=like.device)
    for step in range(steps + 1):  # the last one only looks at what the last step brought
        values = losses(offset)
        better = values.detach() < lowest
        best[better], lowest[better] = offset.detach()[better], values.detach()[better]
        if step == steps or (seconds is not None and time.monotonic() - begun > seconds):
            break
        # Not backward(), which would pile up gradients in a generator that is not frozen.
        (offset.grad,) = torch.autograd.grad(values.sum(), offset)
        optimiser.step()
        schedule.step()
    return best
