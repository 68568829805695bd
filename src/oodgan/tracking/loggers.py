"""Where a run's numbers go: a CSV file always, wandb or TensorBoard besides."""

from __future__ import annotations

import csv
import json
import os
import time
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from oodgan.errors import UserError, unknown
from oodgan.ranks import rank

METRICS_CSV = "metrics.csv"
RUN_FILE = "run.json"


class CsvLog(Logger):
    """Appends rows `step,name,value` to `folder/metrics.csv` as they come, so that a killed run keeps its history.

    Args:
        folder: the run folder.
        resume_at: keep the rows before this step only: a resumed run logs the others again.
    """

    def __init__(self, folder: str | Path, resume_at: int | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS_CSV
        self._cut(resume_at)

    @rank_zero_only
    def _cut(self, resume_at: int | None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [r for r in read_csv(self.path) if resume_at is not None and r[0] < resume_at]
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "name", "value"])
            writer.writerows([step, name, repr(value)] for step, name, value in rows)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run folder holds its config already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([step, k, repr(float(v))] for k, v in metrics.items() if k != "epoch")


def read_csv(path: str | Path) -> list[tuple[int, str, float]]:
    """Rows (step, name, value) of a `metrics.csv`; none when there is no such file; a torn last line is skipped."""
    if not Path(path).is_file():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            try:
                rows.append((int(row[0]), row[1], float(row[2])))
            except (ValueError, IndexError):
                continue
    return rows


def run_identity(folder: str | Path, **known: Any) -> dict[str, Any]:
    """The run's own id (8 hex digits), group and stage, kept in `folder/run.json`; made on the first call."""
    from oodgan.files import write_text

    path = Path(folder) / RUN_FILE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    identity = {"id": uuid.uuid4().hex[:8], "created": time.strftime("%Y-%m-%dT%H:%M:%S"), **known}
    if rank() == 0:
        write_text(path, json.dumps(identity, indent=1) + "\n")
    return identity


def build(cfg: Any, folder: str | Path, stage: str, config: Any = None, resume_at: int | None = None) -> list[Logger]:
    """The loggers that `cfg` (`{kind: csv | wandb | tensorboard, ...}`) asks for; the CSV file is always among them.

    `config` is what the tracker shows as the run's settings; the run's group is `cfg.group` (a sweep's name) or none.

    Raises:
        UserError: an unknown kind, or TensorBoard is not installed.
    """
    options = dict(cfg or {})
    kind = options.pop("kind", "csv")
    loggers: list[Logger] = [CsvLog(folder, resume_at)]
    run_identity(folder, stage=stage, group=options.get("group"))
    if kind == "wandb":
        loggers.append(wandb_logger(options, folder, stage, config))
    elif kind == "tensorboard":
        loggers.append(_tensorboard(folder))
    elif kind != "csv":
        raise unknown("logger", str(kind), ["csv", "wandb", "tensorboard"])
    return loggers


def _tensorboard(folder: str | Path) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(str(folder), name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise UserError("logger=tensorboard needs the tensorboard extra: pip install 'oodgan[tensorboard]'") from error


def wandb_logger(options: Mapping[str, Any], folder: str | Path, stage: str, config: Any = None) -> Logger:
    """A wandb logger on the run of this folder, grouped by the sweep, its job type the stage; offline without login."""
    from pytorch_lightning.loggers import WandbLogger

    from oodgan.tracking.artifacts import plain

    os.environ.setdefault("WANDB_SILENT", "true")  # wandb reads it once, at the first question
    identity = run_identity(folder, stage=stage, group=options.get("group"))
    mode = options.get("mode") or ("online" if logged_in() else "offline")
    return WandbLogger(
        name=options.get("name") or f"{stage}-{identity['id']}",
        id=identity["id"],
        save_dir=str(folder),
        project=options.get("project") or "oodgan",
        offline=mode == "offline",
        group=identity.get("group") or options.get("group"),
        job_type=stage,
        tags=list(options.get("tags") or []),
        entity=options.get("entity"),
        config=plain(config) if config is not None else None,
        resume="allow",
    )


def logged_in() -> bool:
    """Whether wandb has a key to go online with; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        import wandb

        return bool(wandb.api.api_key)
    except Exception:
        return False
