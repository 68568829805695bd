"""Frozen networks used in the training of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds a network in eval mode, without gradients of its own, out of `state_dict`, `parameters` and checkpoints.

    It still moves with its owner (`.to`, Lightning's device moves) and passes gradients through to its input. Calls and
    attributes reach the network: `self.generator = Frozen(generator); self.generator.synthesis(codes)`.
    Checkpoints name `hash` instead of its weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Not through nn.Module.__setattr__, which would register it as a child.
        object.__setattr__(self, "_network", network.network if isinstance(network, Frozen) else network)
        self.network.requires_grad_(False).eval()
        object.__setattr__(self, "_hash", None)
        nn.Module.train(self, False)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.__dict__["_network"]

    @property
    def hash(self) -> str:
        """The network's `id` where it has one, else its class name and 8 hex digits of the sha256 of its weights."""
        if self.__dict__["_hash"] is None:
            own = getattr(self.network, "id", None)
            object.__setattr__(self, "_hash", own if isinstance(own, str) else weights_hash(self.network))
        return self.__dict__["_hash"]

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode when the owner changes its mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Frozen:
        """Stay without gradients whatever the owner is told."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.network._apply(fn)
        return self

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__.get("_network")
        if network is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(network, name)


def weights_hash(module: nn.Module) -> str:
    """Class name + 8 hex digits of the sha256 over names, types and bytes of all parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(module).__name__}-{sha.hexdigest()[:8]}"


def frozen_hashes(module: nn.Module) -> dict[str, str]:
    """`{attribute path: hash}` of every `Frozen` in the module, e.g. {"generator": "mobile_ffhq-1a2b3c4d"}."""
    return {name: part.hash for name, part in module.named_modules() if isinstance(part, Frozen)}
