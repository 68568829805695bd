"""Pictures and artifacts in Weights & Biases, from a run that `logger=wandb` has open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from oodgan.tracking.artifacts import Manifest, digest


def active_run(trainer: pl.Trainer | None = None) -> Any:
    """The open wandb run of this trainer, or of this process; None when there is none (nothing is imported then)."""
    import sys

    if trainer is not None:
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":
                return logger.experiment  # type: ignore[attr-defined]
        return None
    module = sys.modules.get("wandb")
    return None if module is None else module.run


def log_images(
    images: Mapping[str, Tensor | Sequence[Tensor]],
    step: int | None = None,
    trainer: pl.Trainer | None = None,
) -> bool:
    """Show images (3, H, W) or batches (B, 3, H, W) in [-1, 1] under their names; False when no wandb run is open.

    wandb would cast floats to bytes unscaled (black pictures), so they go as PIL images.
    """
    run = active_run(trainer)
    if run is None:
        return False
    import wandb

    from oodgan.data.images import to_pil

    shown: dict[str, Any] = {}
    for name, value in images.items():
        single = isinstance(value, Tensor) and value.ndim == 3
        shown[name] = [wandb.Image(to_pil(image)) for image in ([value] if single else value)]  # type: ignore[arg-type]
    if step is not None:
        shown["trainer/global_step"] = step
    run.log(shown)
    return True


def log_mask(name: str, photo: Tensor, mask: Tensor, trainer: pl.Trainer | None = None) -> bool:
    """Show a photo (3, H, W) in [-1, 1] with its mask (1, H, W) in [0, 1] over it; False without a wandb run."""
    run = active_run(trainer)
    if run is None:
        return False
    import wandb

    from oodgan.data.images import to_pil

    classes = {"mask": {"mask_data": (mask[0] > 0.5).byte().cpu().numpy(), "class_labels": {0: "kept", 1: "edited"}}}
    run.log({name: wandb.Image(to_pil(photo), masks=classes)})
    return True


def artifact_name(folder: str | Path) -> str:
    """The name of one of our artifacts in wandb: its stage and 12 digits of its hash, the same wherever it lies."""
    return f"{Manifest.load(folder).stage}-{digest(folder)[:12]}"


def log_artifact(
    folder: str | Path, inputs: Sequence[str | Path] = (), trainer: pl.Trainer | None = None
) -> str | None:
    """Upload an artifact folder with its lineage: `inputs` are the artifacts it was made from. None without a run.

    Returns the artifact's name. A stage that reads an artifact names it as an input, so that wandb draws
    encoder -> diffcam -> ghosts -> deghost -> evaluation.
    """
    run = active_run(trainer)
    if run is None:
        return None
    import wandb

    manifest = Manifest.load(folder)
    used = [_use(run, place) for place in inputs]
    facts = {
        "generator": manifest.generator,
        "directions": manifest.directions,
        "revision": manifest.revision,
        "metrics": manifest.metrics,
        "made_from": used,
    }
    artifact = wandb.Artifact(artifact_name(folder), type=manifest.stage, metadata=facts)
    artifact.add_dir(str(folder))
    run.log_artifact(artifact)
    return artifact.name


def _use(run: Any, folder: str | Path) -> str:
    """Mark an artifact as used by the run; offline wandb cannot look it up, so the name alone is kept."""
    name = artifact_name(folder)
    if not run.settings._offline:
        run.use_artifact(f"{name}:latest")
    return name
