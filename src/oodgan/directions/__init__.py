"""w+ -> edited w+: named directions, how they are found, and the files they travel in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodgan.directions.bank import Bank
    from oodgan.generators.protocol import Generator


def build(cfg: Mapping[str, Any], generator: Generator) -> Bank:
    """The bank of a config group `directions`, fitted to the generator.

    Options that find directions at once and without labels (`sefa`, `ganspace`, `import`) may stand here as they are.

    Raises:
        UserError: for `probe`, which needs its own stage.
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
