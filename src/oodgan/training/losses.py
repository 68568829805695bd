"""The loss of a training: a weighted sum of named losses, each a class from the config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from oodgan.errors import UserError


class Losses(nn.Module):
    """Named losses with weights; a loss with weight 0 is not built and costs nothing.

    A loss returns a scalar. Its arguments are the tensors named by `inputs` of its config, else by its attribute
    `inputs`, else by `inputs` of this constructor.

    Args:
        losses: {name: {"_target_": a class, "weight": 1.0, "inputs": [...], and its keywords}}, or a loss built
            already, of weight 1.
        inputs: default arguments of a loss.
    """

    def __init__(self, losses: Mapping[str, Any], inputs: tuple[str, ...] = ("result", "target")) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        self._terms: dict[str, Callable[..., Tensor]] = {}
        self._inputs: dict[str, tuple[str, ...]] = {}
        for name, loss in losses.items():
            keywords = dict(loss) if isinstance(loss, Mapping) else {}
            weight, named = float(keywords.pop("weight", 1.0)), keywords.pop("inputs", None)
            if not weight:
                continue
            term = instantiate(keywords, _convert_="all") if isinstance(loss, Mapping) else loss
            if not callable(term):
                raise UserError(f"the loss {name} is {loss!r}; it needs a _target_ that can be called, and a weight")
            self.weights[name], self._terms[name] = weight, term
            self._inputs[name] = tuple(named or getattr(term, "inputs", inputs))
            if isinstance(term, nn.Module):
                self.add_module(name, term)
        if not self._terms:
            raise UserError("all losses have weight 0: there is nothing to minimise")

    def need(self, key: str) -> bool:
        """Whether some loss has this argument."""
        return any(key in inputs for inputs in self._inputs.values())

    def named(self, without: str = "") -> list[str]:
        """Return the names of the losses that do not have the argument `without`."""
        return [name for name, inputs in self._inputs.items() if without not in inputs]

    def forward(self, known: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The unweighted values of all losses, or of some.

        Raises:
            UserError: an argument of a loss is missing.
        """
        return {name: self._value(name, known) for name in (self._terms if names is None else names)}

    def _value(self, name: str, known: Mapping[str, Tensor]) -> Tensor:
        missing = [key for key in self._inputs[name] if key not in known]
        if missing:
            raise UserError(f"the loss {name} needs {missing[0]!r}; this training has {', '.join(sorted(known))}")
        return self._terms[name](*(known[key] for key in self._inputs[name]))

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of values."""
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
