"""w -> image: the generator protocol and its implementations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodgan.generators.protocol import Generator, mean_code, sample_codes, weights_id

__all__ = ["Generator", "build", "mean_code", "open_converted", "sample_codes", "weights_id"]


def build(cfg: Mapping[str, Any]) -> Generator:
    """Instantiate a config group `generator`: frozen, in eval mode."""
    from hydra.utils import instantiate

    # Partial, so that Hydra does not wrap a UserError.
    return instantiate(cfg, _partial_=True)()


def open_converted(source: str | Path) -> Generator:
    """The generator of an artifact of `oodgan weights convert`."""
    from oodgan.generators.stylegan2 import StyleGAN2

    return StyleGAN2(weights=source)
