"""Logs images and artifacts to Weights & Biases, in the run opened by `logger=wandb`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from oodgan.files import MANIFEST, hash_of
from oodgan.ranks import rank
from oodgan.tracking.artifacts import Manifest, plain

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import Tensor

_UPLOADED = 1 << 30  # bytes


def active_run(trainer: pl.Trainer | None = None) -> Any:
    """Return the open wandb run of this trainer or process; None (without importing wandb) if there is none."""
    if trainer is not None:
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":
                return logger.experiment  # type: ignore[attr-defined]
        return None
    module = sys.modules.get("wandb")
    return None if module is None else module.run


def log_images(
    images: Mapping[str, Tensor | Sequence[Tensor] | Image.Image],
    step: int | None = None,
    trainer: pl.Trainer | None = None,
) -> bool:
    """Log images (3, H, W), batches (B, 3, H, W) in [-1, 1] or PIL images by name; returns False without a wandb run.

    wandb would cast floats to bytes unscaled (black pictures), so they go as PIL images.
    """
    run = active_run(trainer)
    if run is None or not images:
        return False
    import wandb

    from oodgan.data.images import to_pil

    shown: dict[str, Any] = {}
    for name, value in images.items():
        if isinstance(value, Image.Image):
            shown[name] = wandb.Image(value)
            continue
        single = getattr(value, "ndim", 0) == 3
        shown[name] = [wandb.Image(to_pil(image)) for image in ([value] if single else value)]  # type: ignore[arg-type]
    if step is not None:
        shown["trainer/global_step"] = step
    run.log(shown)
    return True


def log_mask(name: str, photo: Tensor, mask: Tensor, trainer: pl.Trainer | None = None) -> bool:
    """Log a photo (3, H, W) in [-1, 1] with mask (1, H, W) in [0, 1] as overlay; returns False without a wandb run."""
    run = active_run(trainer)
    if run is None:
        return False
    import wandb

    from oodgan.data.images import to_pil

    classes = {"mask": {"mask_data": (mask[0] > 0.5).byte().cpu().numpy(), "class_labels": {0: "kept", 1: "edited"}}}
    run.log({name: wandb.Image(to_pil(photo), masks=classes)})
    return True


def open_run(cfg: Any, folder: str | Path, stage: str) -> Any:
    """Open the wandb run of a stage without training if `cfg.logger` contains wandb; returns the run or None."""
    from oodgan.tracking import loggers

    entry = loggers.wandb_entry(cfg.get("logger"))
    if rank() or entry is None:
        return None
    return loggers.wandb_logger(entry, folder, stage, plain(cfg)).experiment


def finish() -> None:
    """Finish this process's open wandb run, so that later code does not log to it."""
    run = active_run()
    if run is not None:
        run.finish()


def artifact_name(source: str | Path) -> str:
    """Return the wandb name of an artifact or weights file, independent of its path.

    It is the stage (or the file's name) with 12 digits of the hash.
    """
    path = Path(source)
    return f"{path.stem if path.is_file() else Manifest.load(path).stage}-{hash_of(path)[:12]}"


def log_artifact(
    folder: str | Path,
    inputs: Sequence[str | Path] = (),
    trainer: pl.Trainer | None = None,
    only: Sequence[str] = (),
) -> str | None:
    """Upload an artifact folder with its lineage; returns the artifact's name, or None without a run.

    `inputs` are the artifacts and weights files that it was made from: the run is marked as their user, so that wandb
    draws encoder, diffcam -> ghosts -> deghost -> evaluation. `only` names the files to upload (patterns); of a folder
    above 1 GB the manifest alone is uploaded, which names the rest.
    """
    run = active_run(trainer)
    if run is None:
        return None
    used = [_use(run, place) for place in inputs]
    artifact = _draft(Path(folder), only, used)
    run.log_artifact(artifact)
    return artifact.name


def _draft(source: Path, only: Sequence[str] = (), used: Sequence[str] = ()) -> Any:
    import wandb

    if source.is_file():
        artifact = wandb.Artifact(artifact_name(source), type="weights")
        artifact.add_file(str(source), name=source.name)
        return artifact
    manifest = Manifest.load(source)
    facts = {
        "generator": manifest.generator,
        "directions": manifest.directions,
        "revision": manifest.revision,
        "metrics": manifest.metrics,
        "made_from": list(used),
    }
    artifact = wandb.Artifact(artifact_name(source), type=manifest.stage, metadata=facts)
    names = manifest.files if not only else [n for n in manifest.files if any(fnmatch(n, o) for o in only)]
    files = [source / name for name in names if (source / name).is_file()]
    small = sum(path.stat().st_size for path in files) <= _UPLOADED
    for path in [source / MANIFEST, *(files if small else [])]:
        artifact.add_file(str(path), name=str(path.relative_to(source)))
    return artifact


def _use(run: Any, source: str | Path) -> str:
    """Mark an artifact as used by the run; one that wandb does not have yet is uploaded."""
    artifact = _draft(Path(source))
    if run.settings._offline:
        # `use_artifact` refuses offline, but the same record is kept for `wandb sync`.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)
    return artifact.name
