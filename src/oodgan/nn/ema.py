"""Exponential moving average of trained weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.nn.frozen import Frozen


class Ema(nn.Module):
    """A second copy of `network` that follows its weights: ema <- decay x ema + (1 - decay) x weight.

    Declared in a LightningModule (`self.ema = Ema(self.network)`) it is saved in checkpoints and moved with it, and
    `training.fit` updates it after each optimiser step; outside, call `update()`. `Frozen` parts are shared.
    With `warmup` the decay is min(decay, (1 + t) / (10 + t)), so that early weights have little influence.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, must be in [0, 1)")
        shared = {id(part): part for part in network.modules() if isinstance(part, Frozen)}
        self.module = copy.deepcopy(network, shared).requires_grad_(False).eval()
        self.decay, self.warmup = decay, warmup
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        object.__setattr__(self, "_source", network)

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the network's weights, in place; buffers are copied."""
        step = int(self.updates)
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        source: nn.Module = self.__dict__["_source"]
        theirs = [p.detach() for p in source.parameters()]
        torch._foreach_lerp_(list(self.module.parameters()), theirs, 1 - decay)
        for mine, current in zip(self.module.buffers(), source.buffers(), strict=True):
            mine.copy_(current)
        self.updates += 1

    def train(self, mode: bool = True) -> Ema:
        """Stay in eval mode when the owner changes its mode."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)
