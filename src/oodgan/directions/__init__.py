"""Edit directions (w+ -> edited w+): the named bank, discovery methods, and file formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodgan.directions.bank import Bank
    from oodgan.generators.protocol import Generator


def build(cfg: Mapping[str, Any], generator: Generator) -> Bank:
    """Build the bank of a config group `directions`, fitted to the generator.

    Methods that need no labels and are fast (`sefa`, `ganspace`, `import`) can be used directly.

    Raises:
        UserError: for `probe`, which must be run as a stage first.
    """
    from hydra.utils import instantiate

    from oodgan.directions.bank import Bank, latent_space
    from oodgan.errors import UserError

    target = str(cfg.get("_target_", ""))
    if not target.endswith("Discovery"):
        return instantiate(cfg, generator=generator)
    if target.endswith("ProbeDiscovery"):
        raise UserError(
            "directions=probe learns from labels: run oodgan directions with it first, then give directions=bank "
            "directions.path=FOLDER"
        )
    discovered = instantiate(cfg, _convert_="all").discover(generator)
    space = latent_space(generator)
    return Bank(tuple(discovered.names), discovered.vectors, generator.id, space, provenance=discovered.provenance).fit(
        generator
    )
