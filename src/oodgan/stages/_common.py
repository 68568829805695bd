"""Functions shared by several stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from torch import Tensor

from oodgan.command.usage import constant
from oodgan.command.words import typed_keys
from oodgan.directions import bank
from oodgan.directions import build as build_bank
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.files import MANIFEST, hash_of, writing
from oodgan.generators import Generator
from oodgan.generators import build as build_generator
from oodgan.inversion.inverter import FEATURE_ENCODER
from oodgan.paths import RunFolder, StageFolder
from oodgan.ranks import rank
from oodgan.tracking import wandb as tracker
from oodgan.tracking.artifacts import Manifest, hash_settings, plain, up_to_date
from oodgan.tracking.runs import flatten
from oodgan.weights import trained
from oodgan.weights.registry import SHIPPED

log = logging.getLogger("oodgan")
CHAIN = ("directions", "inversion", "diffcam", "ghosts", "deghost")
"""The stages that make what later ones use, in order."""

_WHERE = ("folder", "root", "run", "cache", "resume", "replace", "sweep", "gpu_slots", "accelerator", "devices")
"""Keys that do not change the result."""
TRAINED = {
    "inversion": "inverter",
    "transfer": "transfer",
    "diffcam": "diffcam",
    "deghost": "deghoster",
    "parser": "parser",
}
"""The config group whose `weights` a stage makes."""


def open_generator(cfg: DictConfig) -> Generator:
    """Build the configured generator."""
    return build_generator(cfg.generator)


def open_bank(cfg: DictConfig, generator: Generator) -> Bank:
    """Build the configured directions, fitted to the generator."""
    return build_bank(cfg.directions, generator)


def artifact_hash(cfg: DictConfig, groups: tuple[str, ...], **inputs: Any) -> str:
    """Return the hash of what a stage's artifact depends on: config groups, the seed, and inputs' hashes.

    Weights enter by their hash, not by their path; those that the stage itself trains are left out.
    """
    used: dict[str, Any] = {group: plain(cfg[group]) for group in groups}
    weights: dict[str, str] = {}
    for group, settings in used.items():
        sources = trained.sources(group, settings)
        if TRAINED.get(cfg.stage) == group and not (settings.get("fit") or {}).get("continue_from_weights"):
            sources = {place: source for place, source in sources.items() if place not in (group, f"{group}.residual")}
        weights |= {place: trained.weights_hash(source) for place, source in sources.items()}
        settings.pop("ghosts_from", None)
        _drop_weights(settings)
    return hash_settings({**used, "weights": weights, "seed": cfg.seed}, inputs)


def _drop_weights(settings: dict[str, Any]) -> None:
    settings.pop("weights", None)
    for key, value in settings.items():
        if isinstance(value, dict) and key != "fit":
            _drop_weights(value)


def training_hash(cfg: DictConfig, groups: tuple[str, ...], **inputs: Any) -> str:
    """As `artifact_hash`, for a stage that trains: also of what in `trainer` and `callbacks` changes the result.

    Raises:
        UserError: a value of `trainer` that Lightning would refuse later, a monitored metric that is not logged, or a
            wandb run that could not start.
    """
    # These import Lightning, which other stages need not wait for.
    from oodgan.tracking.loggers import check_wandb
    from oodgan.training.added import deciding
    from oodgan.training.engine import check_values
    from oodgan.training.monitor import check_monitors

    check_values(cfg)
    check_monitors(plain(cfg), TRAINED[cfg.stage])
    check_wandb(cfg.get("logger"))
    more = deciding(plain(cfg))
    return artifact_hash(cfg, groups, **inputs, **({"training": hash_settings(more)} if more else {}))


def trial(cfg: DictConfig) -> bool:
    """Return whether this is `trainer.fast_dev_run`, which writes nothing."""
    return bool((cfg.get("trainer") or {}).get("fast_dev_run"))


def take_own(cfg: DictConfig) -> DictConfig:
    """Return `cfg` with weights from earlier stages of the same run, unless the command line or a config sets weights.

    Training stages prefer these to the shipped weights; other stages use them only if no weights are configured.
    """
    own, typed = cfg.copy(), typed_keys()
    earlier = CHAIN[: CHAIN.index(cfg.stage)] if cfg.stage in CHAIN else CHAIN
    for stage in earlier:
        folder = RunFolder.of(cfg).stage(stage).artifact
        group = "directions" if stage == "directions" else TRAINED.get(stage)
        if group not in constant(cfg.stage, "READS") or not cfg.get(group) or not (folder / MANIFEST).is_file():
            continue
        key = "path" if group == "directions" else "weights"
        chosen = cfg[group].get(key)
        free = chosen is None or (cfg.stage in CHAIN and (SHIPPED / f"{chosen}.safetensors").is_file())
        if group == "directions":
            free = cfg.stage in CHAIN and group not in typed and (chosen is None or str(chosen) in bank.SHIPPED)
        if not free or f"{group}.{key}" in typed or not _of_this_generator(folder, cfg):
            continue
        log.info("%s: uses %s of this run", cfg.stage, folder)
        with open_dict(own):
            hand_over(own, stage, folder)
    return own


def hand_over(cfg: DictConfig, stage: str, artifact: Path) -> None:
    """Let the config use the artifact of an earlier stage."""
    if stage == "directions":
        cfg.directions = {"_target_": "oodgan.directions.bank.Bank.load", "path": str(artifact)}
    elif stage in TRAINED:
        cfg[TRAINED[stage]].weights = str(artifact)
        if (artifact / FEATURE_ENCODER).is_dir():
            cfg.inverter.residual.weights = str(artifact)


def _of_this_generator(folder: Path, cfg: DictConfig) -> bool:
    return Manifest.load(folder).config.get("generator") == plain(cfg.generator)


def finished(cfg: DictConfig, settings_hash: str) -> bool:
    """Return whether the artifact exists and was made with these settings.

    Raises UserError if one with other settings exists and `replace` is false.
    """
    folder = StageFolder.of(cfg).artifact
    if trial(cfg):
        return False
    if up_to_date(folder, settings_hash):
        log.info("%s is up to date: %s", cfg.stage, folder)
        return True
    if (folder / MANIFEST).exists() and not cfg.replace:
        others = ", ".join(_others(cfg, Manifest.load(folder).config)) or "its inputs have changed"
        raise UserError(
            f"{folder} was made with other settings ({others}); give run=ANOTHER_NAME, or replace=true to overwrite it"
        )
    return False


def _others(cfg: DictConfig, config: Mapping[str, Any]) -> list[str]:
    """Return the first relevant keys whose values differ from an artifact's `config`."""
    from oodgan.training.added import deciding

    reads = constant(cfg.stage, "READS")

    def counting(settings: Mapping[str, Any]) -> dict[str, Any]:
        training = {k if "." in k else f"trainer.{k}": v for k, v in deciding(settings).items()}
        left_out = ("trainer", "callbacks", "logger", *_WHERE)
        kept = {k: v for k, v in settings.items() if k not in left_out and (k in reads or not isinstance(v, dict))}
        return flatten(kept) | training

    before, now = counting(config), counting(plain(cfg))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return changed[:3] + (["..."] if len(changed) > 3 else [])


def write_artifact(
    cfg: DictConfig,
    settings_hash: str,
    fill: Callable[[Path], None],
    uses: Mapping[str, Path | None] | None = None,
    inputs: Mapping[str, str] | None = None,
    **manifest: Any,
) -> Path:
    """Write `<folder>/artifact` by `fill(folder)`, with a manifest; an existing artifact is replaced when complete.

    `uses` names the artifacts and weights files that it was made from; the manifest keeps their hashes, and wandb the
    lineage, in the run that the stage's fit left open or in one for the artifact alone. `inputs` are further hashes.
    """
    if trial(cfg):
        log.info("%s: fast_dev_run succeeded; nothing is written", cfg.stage)
        return StageFolder.of(cfg).artifact
    folder = StageFolder.of(cfg).artifact
    sources = {name: path for name, path in (uses or {}).items() if path is not None}
    if rank():  # the first process writes for all
        return folder
    with writing(folder, replace=True) as temporary:
        fill(temporary)
        if not any(path.is_file() for path in temporary.rglob("*")):
            raise UserError(f"{cfg.stage} wrote no files: {folder} is not created")
        Manifest(
            stage=cfg.stage,
            config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
            seed=cfg.seed,
            settings_hash=settings_hash,
            inputs={**(inputs or {}), **{name: hash_of(path) for name, path in sources.items()}},
            **manifest,
        ).save(temporary)
    if tracker.active_run() or tracker.open_run(cfg, cfg.folder, cfg.stage):
        tracker.log_artifact(folder, list(sources.values()))
        paths = [*folder.glob("*.png"), *folder.glob("pictures/*")]
        tracker.log_images({path.stem: Image.open(path).convert("RGB") for path in sorted(paths)})
        tracker.finish()
    log.info("%s: wrote %s", cfg.stage, folder)
    return folder


def write_weights(
    cfg: DictConfig,
    settings_hash: str,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
    beside: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Any]]] | None = None,
    **manifest: Any,
) -> Path:
    """Write the artifact of trained weights with their metadata `description`: part, generator, and the architecture.

    `beside` has further networks of the same stage, {part: (tensors, metadata)}, each in a subfolder of that name.
    """

    def fill(folder: Path) -> None:
        for name, (values, metadata) in {"": (tensors, description), **(beside or {})}.items():
            trained.save(folder / name / trained.FILE, values, half=True, **plain(metadata))

    return write_artifact(
        cfg,
        settings_hash,
        fill,
        generator=description.get("generator"),
        directions=description.get("directions"),
        **manifest,
    )


def used(cfg: DictConfig, *groups: str) -> dict[str, Path | None]:
    """Return the artifacts (or shipped files) of the weights of config groups; None for a group without weights."""
    sources: dict[str, Path | None] = {}
    for group in groups:
        settings = cfg.get(group) or {}
        source = settings.get("path" if group == "directions" else "weights")
        if source is None:  # discovered or trained from the start
            sources[group] = None
            continue
        file = bank.locate(source) if group == "directions" else trained.locate(source)
        sources[group] = file.parent if (file.parent / MANIFEST).is_file() else file
    return sources


def earlier(settings: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint of `weights` if training continues from it: unlike an artifact, it has the discriminator.

    None if `weights` is an artifact, or if training starts from new weights.
    """
    if not (settings.get("fit") or {}).get("continue_from_weights"):
        return None
    path = trained.locate(str(settings["weights"]))
    return path if path.suffix == ".ckpt" else None


def loader_workers(cfg: DictConfig) -> int:
    """Loader processes of every training, `data.num_workers`."""
    return int(cfg.data.get("num_workers") or 0)


def numbers(metrics: Mapping[str, float], digits: int = 4) -> dict[str, float]:
    """Return metrics rounded for a manifest."""
    return {name: round(float(value), digits) for name, value in metrics.items()}
