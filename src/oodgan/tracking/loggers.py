"""Loggers of a run: always a CSV file, and Lightning's loggers from the config."""

from __future__ import annotations

import csv
import json
import netrc
import os
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.utils import get_object
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from oodgan.command.targets import keywords
from oodgan.errors import UserError, unknown
from oodgan.files import write_json
from oodgan.paths import FitFolder
from oodgan.ranks import rank
from oodgan.tracking.artifacts import plain


class CsvLog(Logger):
    """Appends rows `step,name,value` to `folder/metrics.csv` immediately, so that a killed run keeps its history.

    Args:
        folder: the run folder.
        resume_at: keep only rows before this step; a resumed run logs the others again.
    """

    def __init__(self, folder: str | Path, resume_at: int | None = None) -> None:
        super().__init__()
        self.path = FitFolder(Path(folder)).metrics_csv
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
        """Do nothing: the run folder already contains the config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([step, k, repr(float(v))] for k, v in metrics.items() if k != "epoch")


def read_csv(path: str | Path) -> list[tuple[int, str, float]]:
    """Yield rows (step, name, value) of a `metrics.csv`, if it exists; an incomplete last line is skipped."""
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
    """Return the run's id (8 hex digits), group and stage, saved in `folder/run.json` by the first call."""
    path = FitFolder(Path(folder)).identity
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    identity = {"id": uuid.uuid4().hex[:8], "created": time.strftime("%Y-%m-%dT%H:%M:%S"), **known}
    if rank() == 0:
        write_json(path, identity)
    return identity


def _remember(folder: str | Path, **known: Any) -> None:
    path = FitFolder(Path(folder)).identity
    write_json(path, {**run_identity(folder), **known})


_WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")


def build(
    cfg: Mapping[str, Any] | None, folder: str | Path, stage: str, config: Any = None, resume_at: int | None = None
) -> list[Logger]:
    """Build the loggers of the config group `logger`, {name: config with `_target_`}, and the CSV logger.

    Values that the config leaves open are set: the run's folder, name, group (name of the sweep) and id, with which a
    resumed run continues in the same place. `config` is logged as the run's settings.

    Raises:
        UserError: an entry that is no logger config, an unknown keyword, or a missing package.
    """
    entries = {name: entry for name, entry in plain(dict(cfg or {})).items() if entry is not None}
    run_identity(folder, stage=stage, group=_group(entries, config))
    loggers: list[Logger] = [CsvLog(folder, resume_at)]
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or "_target_" not in entry:
            raise UserError(f"logger.{name}={entry}: a config of a logger expected, with _target_; see conf/logger")
        if get_object(entry["_target_"]) is not CsvLog:
            loggers.append(_logger(name, entry, Path(folder), stage, config))
    return loggers


def _group(entries: Mapping[str, Any], config: Any) -> str | None:
    """The group that a logger names, else the sweep's name."""
    named = [entry["group"] for entry in entries.values() if isinstance(entry, Mapping) and entry.get("group")]
    return next(iter(named), (config or {}).get("sweep"))


def _logger(name: str, entry: Mapping[str, Any], folder: Path, stage: str, config: Any) -> Logger:
    given = {key: value for key, value in entry.items() if key != "_target_"}
    target = get_object(entry["_target_"])
    own = _OWN.get(target.__name__, lambda *_: {})(given, folder, stage, config)
    chosen = {**own, **{key: value for key, value in given.items() if value is not None or key not in own}}
    _check_keywords(name, target, chosen)
    try:
        logger = target(**chosen)
        if target.__name__ == "MLFlowLogger" and rank() == 0:
            _remember(folder, mlflow=logger.run_id)  # a resumed run goes on in it
        return logger
    except ModuleNotFoundError as error:
        raise UserError(f"logger={name} needs a package that is not installed: {_first_line(error)}") from error
    except TypeError as error:
        raise UserError(f"logger.{name}: {_first_line(error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith("mlflow"):  # which may not be installed
            raise
        raise UserError(f"logger.{name}: {_first_line(error)}") from error


def _wandb(keywords: Mapping[str, Any], folder: Path, stage: str, config: Any) -> dict[str, Any]:
    os.environ.setdefault("WANDB_SILENT", "true")  # wandb reads it once, at the first access
    identity = run_identity(folder, stage=stage, group=keywords.get("group"))
    offline = wandb_is_offline(keywords.get("offline"))
    return {
        "name": f"{stage}-{identity['id']}",
        "id": identity["id"],
        "save_dir": str(folder),
        "project": "oodgan",
        "offline": offline,
        "group": identity.get("group"),
        "job_type": stage,
        "tags": [],
        "config": plain(config) if config is not None else None,
        "resume": "allow",
    }


def _tensorboard(keywords: Mapping[str, Any], folder: Path, stage: str, config: Any) -> dict[str, Any]:
    return {"save_dir": str(folder), "name": "", "version": "tensorboard"}


def _csv(keywords: Mapping[str, Any], folder: Path, stage: str, config: Any) -> dict[str, Any]:
    return {"save_dir": str(folder), "name": "", "version": "csv"}


def _mlflow(keywords: Mapping[str, Any], folder: Path, stage: str, config: Any) -> dict[str, Any]:
    identity = run_identity(folder, stage=stage)
    root = Path(str((config or {}).get("root") or folder)).absolute()
    return {
        "experiment_name": "oodgan",
        "run_name": f"{stage}-{identity['id']}",
        "tracking_uri": f"file:{root / 'mlruns'}",
        "tags": {"stage": stage, "group": identity.get("group") or "", "id": identity["id"]},
        "run_id": identity.get("mlflow"),
    }


_OWN: dict[str, Callable[..., dict[str, Any]]] = {
    "WandbLogger": _wandb,
    "TensorBoardLogger": _tensorboard,
    "CSVLogger": _csv,
    "MLFlowLogger": _mlflow,
}
"""What this run's Lightning loggers are given where the config says nothing."""


def _check_keywords(name: str, target: Any, given: Iterable[str]) -> None:
    takes = keywords(target)
    for key in given:
        if takes is not None and key not in takes:
            raise unknown(f"key of logger.{name}", key, takes)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def wandb_entry(cfg: Any) -> dict[str, Any] | None:
    """The config of the wandb logger among those of the group `logger`, None without one."""
    for entry in plain(dict(cfg or {})).values():
        if isinstance(entry, Mapping) and str(entry.get("_target_", "")).endswith(".WandbLogger"):
            return dict(entry)
    return None


def wandb_logger(entry: Mapping[str, Any], folder: str | Path, stage: str, config: Any = None) -> Any:
    """A wandb logger on the run of this folder, grouped by the sweep, its job type the stage; offline without login."""
    return _logger("wandb", {"_target_": "pytorch_lightning.loggers.WandbLogger", **entry}, Path(folder), stage, config)


def check_wandb(cfg: Any) -> None:
    """Raise UserError if the wandb run of the group `logger` could not start, before a stage renders anything."""
    entry = wandb_entry(cfg)
    if entry is not None:
        wandb_is_offline(entry.get("offline"))


def wandb_is_offline(configured: bool | None) -> bool:
    """Return whether a wandb run stays here: by the config, else by `WANDB_MODE`, else if nobody is logged in.

    Raises:
        UserError: an unknown mode, or a server that does not answer.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if mode and mode not in _WANDB_MODES:
        raise unknown("WANDB_MODE", mode, _WANDB_MODES)
    if configured is None and mode in ("online", "run", "shared") and not logged_in():
        raise UserError(f"WANDB_MODE={mode}, but wandb is not logged in: run wandb login, or set WANDB_MODE=offline")
    by_default = mode in ("offline", "dryrun") if mode else not logged_in()
    offline = by_default if configured is None else bool(configured)
    if not offline and not mode and rank() == 0:
        _reach_wandb()
    return offline


def _reach_wandb() -> None:
    """Raise UserError if wandb's server does not answer; wandb itself would retry for a minute and a half."""
    import requests

    address = _wandb_address()
    try:
        requests.head(address, timeout=10)  # any answer will do
    except requests.RequestException as error:
        reason = _first_line(error).rpartition(": ")[2].strip("'()\" ")
        raise UserError(
            f"wandb's server {address} cannot be reached ({reason}): logger.wandb.offline=true (or WANDB_MODE=offline) "
            "keeps the run in its folder, and wandb sync uploads it later"
        ) from error


def _wandb_address() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def logged_in() -> bool:
    """Return whether an API key for wandb exists. Does not call wandb, which would freeze its settings."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(_wandb_address()).hostname or ""
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(file).expanduser() for file in files if file):
        try:
            if path.is_file() and netrc.netrc(path).authenticators(host):
                return True
        except (netrc.NetrcParseError, OSError):
            continue
    return False
