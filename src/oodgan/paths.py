"""The paths of a run's files. No other module contains these names.

<root>/<run>/                    a run: `RunFolder`
    config.yaml                  the pipeline's configuration
    report.{html,png,json}       what the pipeline shows
    <stage>/                     what one stage wrote: `StageFolder`; a sweep's job is one, too
        config.yaml              the configuration of the command that wrote here; `config=` takes it
        job.json                 of a sweep's job
        artifact/                what later stages read: manifest.json beside weights.safetensors or images
        partial-<hash>/          what an interrupted stage has made so far
        training/<phase>-<hash>/ one training: `FitFolder`, with config, numbers, pictures and checkpoints
<root>/sweeps/<sweep>/<number>/  a sweep's jobs (`conf/hydra/default.yaml` says so, too)
<root>/cache/                    rendered samples and pairs, which all runs share
<root>/comparison/               tables of `oodgan compare`
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodgan.files import MANIFEST

CONFIG = "config.yaml"
JOB = "job.json"
WEIGHTS = "weights.safetensors"
METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"
CHECKPOINTS = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
PICTURES = ("*.png", "*.jpg")


def cache_folder() -> Path:
    """The folder of what is downloaded or kept for all projects: `$OODGAN_CACHE`, else `~/.cache/oodgan`."""
    return Path(os.environ.get("OODGAN_CACHE") or Path.home() / ".cache" / "oodgan")


def sweep_folder(cfg: Any) -> Path:
    """The folder of the jobs of the sweep that a configuration names."""
    return Path(cfg.root) / "sweeps" / cfg.sweep


def shared_folder(cfg: Any, kind: str, settings_hash: str) -> Path:
    """Where runs and the jobs of a sweep find what others have rendered, as `<cache>/<kind>/<hash of the settings>`."""
    return Path(cfg.cache) / kind / settings_hash[:10]


@dataclass(frozen=True)
class RunFolder:
    """A run: the folders of its stages, and the pipeline's report."""

    path: Path

    @classmethod
    def of(cls, cfg: Any) -> RunFolder:
        """The run that a configuration names: `<root>/<run>`."""
        return cls(Path(cfg.root) / cfg.run)

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / name)

    @property
    def config(self) -> Path:
        """The pipeline's configuration."""
        return self.path / CONFIG

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def report_json(self) -> Path:
        """The report's numbers."""
        return self.path / "report.json"

    @property
    def report_hash(self) -> Path:
        """The file with the hash of the settings and weights that the report was made with."""
        return self.path / "report.hash"


@dataclass(frozen=True)
class StageFolder:
    """What one stage, or one job of a sweep, writes."""

    path: Path

    @classmethod
    def of(cls, cfg: Any) -> StageFolder:
        """The folder that a configuration writes to."""
        return cls(Path(cfg.folder))

    @property
    def artifact(self) -> Path:
        return self.path / "artifact"

    @property
    def manifest(self) -> Path:
        return self.artifact / MANIFEST

    @property
    def job(self) -> Path:
        """Overrides and result of a sweep's job."""
        return self.path / JOB

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def codes(self) -> Path:
        """Codes of training photos, which every epoch needs."""
        return self.path / "codes"

    def partial(self, settings_hash: str) -> Path:
        """The incomplete artifact of an interrupted stage with these settings."""
        return self.path / f"partial-{settings_hash[:10]}"

    def fit(self, settings_hash: str, phase: str = "") -> FitFolder:
        """The folder of a training with these settings: the same settings resume there, others get another folder."""
        return FitFolder(self.path / "training" / "-".join(part for part in (phase, settings_hash[:10]) if part))

    def fits(self) -> list[FitFolder]:
        """The trainings that logged something in this folder."""
        return [FitFolder(path.parent) for path in sorted(self.path.glob(f"training/*/{METRICS_CSV}"))]

    def is_run(self) -> bool:
        """Whether this folder contains results of a stage, a training or a sweep's job."""
        files = (self.job, self.manifest, *(self.path / name for name in (MANIFEST, METRICS_CSV, METRICS_JSON)))
        return self.path.is_dir() and (any(file.is_file() for file in files) or bool(self.fits()))

    def pictures(self) -> list[Path]:
        """Images to show: those of the stage, then those of its trainings."""
        places = ("", "artifact/", "images/", "result/", "sheet/", "training/*/")
        return [path for place in places for kind in PICTURES for path in sorted(self.path.glob(place + kind))]


@dataclass(frozen=True)
class FitFolder:
    """One training: Lightning's `default_root_dir`."""

    path: Path

    @property
    def phase(self) -> str:
        """The name of this training in a stage with several; "" if there is one."""
        return self.path.name.rpartition("-")[0]

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def metrics_csv(self) -> Path:
        """All logged numbers, in order."""
        return self.path / METRICS_CSV

    @property
    def metrics_json(self) -> Path:
        """The latest numbers."""
        return self.path / METRICS_JSON

    @property
    def identity(self) -> Path:
        """The run's name and id in loggers, kept by a resumed run."""
        return self.path / "run.json"

    @property
    def last(self) -> Path:
        return self.path / CHECKPOINTS / LAST

    @property
    def best(self) -> Path:
        return self.path / CHECKPOINTS / BEST

    @property
    def picture(self) -> Path:
        """The sheet of the last validation."""
        return self.path / "validation.png"

    @property
    def confusion(self) -> Path:
        """Diff-CAM's confusion matrix of the last validation."""
        return self.path / "confusion.csv"


def find_checkpoint(folder: Path, best: bool) -> Path | None:
    """Return the best checkpoint, else the last (without `best`: the last, else the best); None if there is none.

    `folder` is that of a training, of its checkpoints, or of a stage, whose newest training is used.
    """
    trainings = sorted(folder.glob(f"training/*/{CHECKPOINTS}"), key=lambda path: path.stat().st_mtime, reverse=True)
    names = (BEST, LAST) if best else (LAST, BEST)
    files = (place / name for place in (folder, folder / CHECKPOINTS, *trainings) for name in names)
    return next((path for path in files if path.is_file()), None)
