"""Types of configuration keys that the shipped configs do not show: text, lists, choices.

Used by `oodgan.command.words` for arguments and by `oodgan.command.checks` for the composed configuration, which also
reads from the shipped configs which keys exist and whether a number or a boolean is expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

TEXT = (
    "run", "root", "folder", "cache", "sweep", "resume", "output", "photos", "masks", "mask", "settings", "ask",
    "probes", "title", "host", "sheet_by", "wandb", "to", "action", "*.path", "*.root", "*.weights", "*.cache",
    "*.name", "*.probes", "*.published", "*.parsing", "*.mapping", "*.partition", "*.ghosts_from", "logger.*.project",
    "logger.*.entity", "logger.*.group", "logger.*.notes", "logger.*.run_name", "logger.*.experiment_name", "set",
    "kind", "data.source.labels", "data.source.image", "*.monitor",
)  # fmt: skip
"""Keys (`*.x`: an `x` at any depth) of one name or path: what is typed is the text, whatever it looks like."""

TEXTS = (
    "input", "runs", "name", "labels", "images", "methods", "columns", "maximize", "save", "attributes", "judges",
    "directions.files", "diffcam.aliases", "pipeline.stages", "pipeline.photos", "metrics.metrics", "metrics.sets",
    "*.tags",
)  # fmt: skip
"""Keys with several names or paths, in a list or mapping, or with one alone."""

NEVER_NULL = ("run", "root")
"""Keys in which the word `null` is a name like any other."""

LISTS = ("columns", "attributes", "strengths")
"""Keys of a list whose shipped value is null; of the others the shipped value is a list."""

MAPPINGS = ("methods", "edits")
"""Keys of {name: value}, where the configs leave it open."""

FILES = ("methods", "directions.files", "directions.attributes")
"""Mappings whose names become names of files."""

ANYTHING = (
    "format", "*.truncation", "*.limit_val", "*.layers", "face", "gpu_slots", "devices", "trainer.devices",
    "trainer.fast_dev_run", "trainer.overfit_batches", "trainer.*_batches", "trainer.strategy", "trainer.profiler",
)  # fmt: skip
"""Keys that take values of several kinds."""

CHOICES = {
    "*.fit.mode": ("min", "max"),
    "*.fit.*.mode": ("min", "max"),
    "*.export": ("best", "last"),
    "logger.*.offline": ("true", "false"),
    "pipeline.use": ("trained", "shipped"),
    "compose.mode": ("difference", "layered", "paper", "poisson", "blended"),
    "*.sees": ("all", "coarse"),
    "*scheduler.interval": ("step", "validation"),
    "accelerator": ("cpu", "gpu", "cuda", "mps", "auto"),
    "trainer.profiler": ("simple", "advanced", "pytorch", "xla"),
    "trainer.gradient_clip_algorithm": ("norm", "value"),
    "trainer.accelerator": ("cpu", "gpu", "cuda", "mps", "auto"),
    "trainer.precision": (
        "32-true",
        "64-true",
        "16-true",
        "bf16-true",
        "16-mixed",
        "bf16-mixed",
        "16",
        "32",
        "64",
        "bf16",
        "transformer-engine",
        "transformer-engine-float16",
    ),
}
"""Keys that take one of a few words; what is not listed here is checked by the part that reads it."""

LEAST = {
    "seed": 0, "*.fit.pairs": 1, "*.fit.region_codes": 1, "*.fit.edits_per_code": 1, "diffcam.size": 16, "*.lr": 0,
    "*.batch_size": 1, "pipeline.samples": 0, "*.seed": 0, "data.source.length": 1, "pictures": 0,
    "*.num_workers": 0, "batch_size": 1, "workers": 0, "size": 1, "*.size": 1, "repeats": 1, "nodes": 1,
    "*.val_every": 1, "*.every": 1, "*.max_steps": 0, "*.steps": 0, "*.warmup": 0, "*.passes": 1, "directions.count": 1,
    "directions.samples": 1, "calibrate.samples": 1, "metrics.count": 1, "metrics.resolution": 1, "code_cache": 0,
    "photo_limit": 0, "faces": 0, "per_shard": 1, "side": 1, "fit.samples": 1, "*.photos": 0, "fit.held_out": 1,
    "directions.solve.samples": 1, "metrics.bootstrap_samples": 1, "samples": 1, "*.samples": 0, "*.held_out": 0,
    "*.count": 1, "*.limit_val": 0, "*.patience": 0, "*.width": 1, "*.render_size": 1, "*.resolution": 1, "window": 1,
    "steady": 1, "search.previews": 1,
    "trainer.accumulate_grad_batches": 1, "trainer.log_every_n_steps": 0,
}  # fmt: skip
"""The smallest value of numbers whose readers would end with an error of Python's below it, or make nothing."""

OPEN = (
    "edits", "methods", "paper", "callbacks", "data.limit", "data.source.sources", "data.source.ratios",
    "directions.attributes", "directions.solve", "directions.polish", "directions.files", "diffcam.aliases",
    "diffcam.mask.thresholds", "parser.reach",
)  # fmt: skip
"""Mappings whose keys are names that the user chooses, or that the part which reads them checks."""


NAMED = {"*.losses": ("weight", "inputs"), "callbacks.metrics.metrics": (), "logger": ()}
"""Mappings to which an entry of any name can be added by its `_target_`; the keys that it has besides its keywords."""


def further(prefix: str) -> tuple[str, ...]:
    """Return the keys that the entry at `prefix` (`a.losses.mine.`) has besides the keywords of its `_target_`."""
    parent = prefix.rstrip(".").rpartition(".")[0]
    return next((names for pattern, names in NAMED.items() if fnmatchcase(parent, pattern)), ())


def is_text(key: str) -> bool:
    return not is_texts(key) and among(key, TEXT)


def is_texts(key: str) -> bool:
    return among(key, TEXTS)


def among(key: str, keys: Iterable[str]) -> bool:
    """Return whether a dotted key matches one of `keys`, in which `*.x` is an `x` at any depth."""
    return any(fnmatchcase(key, pattern) for pattern in keys)


def choices(key: str) -> tuple[str, ...] | None:
    """Return the valid values of a key, by its most specific entry; None if there is no restriction."""
    exact = CHOICES.get(key)
    return exact or next((words for pattern, words in CHOICES.items() if fnmatchcase(key, pattern)), None)
