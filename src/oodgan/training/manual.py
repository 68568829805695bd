"""One optimiser's step with manual optimisation, for adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor


def optimise(
    module: pl.LightningModule,
    optimizer: Any,
    loss: Callable[[], Tensor],
    batch_idx: int,
    counts: bool = True,
) -> Tensor:
    """Evaluate `loss()`; step `optimizer` (of `module.optimizers()`) each `accumulate`-th batch; return the loss.

    `fit: {accumulate, clip}` are applied by the engine.

    Only this optimiser's parameters get gradients, so a generator loss adds none to the discriminator. Outputs of this
    optimiser's network that `loss` uses may be computed before the call. With `counts=False` the step does not increase
    `global_step`: with several optimisers, exactly one should count.
    """
    accumulate: int = getattr(module.trainer, "manual_accumulate", 1)
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in mine]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        value = loss()
        if batch_idx % accumulate == 0:
            optimizer.zero_grad()
        module.manual_backward(value / accumulate)
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
    if (batch_idx + 1) % accumulate == 0:
        if not counts:
            optimizer._on_before_step = optimizer._on_after_step = _nothing
        optimizer.step()
    return value.detach()


def _nothing() -> None:
    """Takes the place of Lightning's step counter."""
