"""Write the training pairs of the deghoster (ghosts) from the images of `data`

Runs through `Trainer.predict`, so it uses several processes or machines as a training does. An interrupted run
continues when the command is given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from oodgan.command.words import refuse_typed
from oodgan.deghost.ghosts import EDITED, GhostWriter, pack
from oodgan.diffcam import masks
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.inversion import inverter, transfer
from oodgan.inversion.layers import Layers
from oodgan.paths import StageFolder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import plain
from oodgan.training.engine import described, loaders_restored, local_processes, trainer
from oodgan.training.progress import Progress
from oodgan.training.spread import spread

READS = (
    "generator",
    "data",
    "inverter",
    "transfer",
    "directions",
    "diffcam",
    "deghoster",
    "trainer",
    "logger",
    "identity",
)


def ghosts_hash(cfg: DictConfig, generator: Any, bank: Any) -> str:
    """Return the hash of what the ghosts depend on: data, parts of the edit and weights, and how they are drawn."""
    parts = ("inverter", "transfer", "diffcam")
    drawn = {"ghosts": plain(cfg.deghoster.ghosts)}
    return common.artifact_hash(cfg, ("data", *parts), generator=generator.id, bank=bank.id) + (
        "-" + common.hash_settings(drawn)[:8]
    )


def run(cfg: DictConfig) -> dict[str, Any] | None:
    _check_part(cfg)
    generator = common.open_generator(cfg)
    bank = common.open_bank(cfg, generator)
    made_by = ghosts_hash(cfg, generator, bank)
    if common.finished(cfg, made_by):
        return None
    masker = masks.build(cfg.diffcam, generator, bank)
    bank = _known_to(bank, masker)
    settings = cfg.deghoster.ghosts
    partial = StageFolder.of(cfg).partial(common.hash_settings(made_by))
    partial.mkdir(parents=True, exist_ok=True)
    data = instantiate(cfg.data, size=settings.size)
    writer = GhostWriter(
        generator,
        inverter.build(cfg.inverter, generator),
        bank,
        masker,
        partial,
        seed=cfg.seed,
        transfer=transfer.build(cfg.get("transfer"), generator, bool(cfg.inverter.get("residual"))),
        layers=Layers.of(data) if settings.get("target") == EDITED else None,
        **plain(settings),
    )
    skipped = spread(local_processes(described(cfg)), _compose, plain(cfg.get("trainer")), writer, data, partial)

    def fill(folder: Path) -> None:
        for path in sorted(partial.glob("*.safetensors")):
            path.rename(folder / path.name)

    count = pack(partial)
    if not count:
        raise UserError(f"no ghosts were written: none of the images of data could be read ({skipped} skipped)")
    common.write_artifact(
        cfg,
        made_by,
        fill,
        uses=common.used(cfg, "directions", "inverter", "transfer", "diffcam"),
        generator=generator.id,
        directions=list(bank.names),
        resolution=writer.size,
        counts={"ghosts": count, "skipped": skipped},
    )
    partial.rmdir()
    return None


def _check_part(cfg: DictConfig) -> None:
    """Raise UserError if ghosts, which are training data, would contain images of a test set by mistake."""
    if cfg.deghoster.get("ghosts") is None:
        raise UserError(f"deghoster={cfg.deghoster.name} trains on no ghosts; choose deghoster=light")
    if cfg.deghoster.ghosts.get("target") == EDITED:
        noise = ("deghoster.ghosts.inverted", "deghoster.ghosts.disturbance")
        refuse_typed("ghosts", noise, "with deghoster.ghosts.target=edited every sample is inverted")
    part = cfg.data.get("predict")
    if part in ("test", "all") and not cfg.allow_test:
        raise UserError(
            f"data.predict={part} takes the test images too, and the deghoster would be trained on them: "
            "data.predict=train, or allow_test=true where that is meant"
        )


def _compose(settings: Any, writer: GhostWriter, data: Any, folder: Path) -> int:
    """Write the ghosts, divided among processes. Returns the number of unreadable images."""
    engine = trainer({"trainer": settings}, folder=folder, callbacks=[Progress("ghosts")])
    with loaders_restored():
        engine.predict(writer, datamodule=data, return_predictions=False)
    skipped: list[Any] = [list(data.skipped)]
    if engine.world_size > 1:
        skipped *= engine.world_size
        torch.distributed.all_gather_object(skipped, skipped[0])
    return len({name for names in skipped for name in names})


def _known_to(bank: Bank, masker: masks.Masker) -> Bank:
    """Return the directions that this Diff-CAM was trained on (imported weights have only a few)."""
    names = [name for name in bank.names if name in masker.names]
    if not names:
        raise UserError(f"Diff-CAM knows {', '.join(masker.names)}, but the directions are {', '.join(bank.names)}")
    return bank.subset(names)
