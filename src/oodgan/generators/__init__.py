"""w -> image: the generator protocol and its implementations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodgan.generators.protocol import Generator, mean_code, sample_codes, weights_id

__all__ = ["Generator", "build", "mean_code", "sample_codes", "weights_id"]


def build(cfg: Mapping[str, Any]) -> Generator:
    """Instantiate a config group `generator`: frozen, in eval mode."""
    from hydra.utils import instantiate

    return instantiate(cfg)
