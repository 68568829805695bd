"""Jobs of a sweep (`oodgan STAGE -m ...`): names, GPUs, and skipping of finished jobs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from oodgan.command import saved
from oodgan.command.words import key_of, quoted, unquoted
from oodgan.errors import UserError
from oodgan.files import write_json, write_text
from oodgan.paths import JOB, StageFolder, sweep_folder

_OF_ALL = ("sweep", "root")  # words of the sweep, not of a job
_begun = 0.0
_folder: Path | None = None
_slot: Any = None


class Pruned(UserError):
    """The study pruned this trial: its validation metric was worse than that of others at the same step."""

    in_all_ranks = True

    def __init__(self, value: float, step: int) -> None:
        super().__init__(f"trial pruned at step {step} with {value:.5g}")
        self.value, self.step = value, step


def is_sweep(overrides: Sequence[str]) -> bool:
    """Return whether a command line is a sweep.

    >>> is_sweep(["-m", "seed=1,2"]), is_sweep(["seed=1"])
    (True, False)
    """
    return any(word in ("-m", "--multirun", "hydra.mode=MULTIRUN") for word in overrides)


def named(stage: str, overrides: Sequence[str], conf: Path) -> list[str]:
    """Return the overrides that tell every job, in any process and on any machine, the sweep's name and root folder.

    The name is that of `sweep=NAME`, else a hash of the command (without launcher and sweeper options). `root` is an
    absolute path, because a launcher's processes may start in another folder.
    """
    words = [] if _given(overrides, "sweep") else [f"sweep={_name(stage, overrides)}"]
    root = _given(overrides, "root") or _configured_root(stage, overrides, conf)
    return [*words, f"root={quoted(str(Path(root).expanduser().absolute()))}"]


def _given(overrides: Sequence[str], key: str) -> str | None:
    values = [unquoted(word.partition("=")[2]) for word in overrides if key_of(word) == key]
    return values[-1] if values and values[-1] not in ("", "null") else None


def _name(stage: str, overrides: Sequence[str]) -> str:
    """
    >>> _name("diffcam", ["-m", "seed=1,2"]) == _name("diffcam", ["seed=1,2", "--multirun", "hydra=joblib"])
    True
    """
    kept = sorted(w for w in overrides if not w.startswith(("-", "hydra", "+hydra", "root=")))
    return f"{stage}-{hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:8]}"


def _configured_root(stage: str, overrides: Sequence[str], conf: Path) -> str:
    """Return `root` of the chosen experiment."""
    from hydra import compose, initialize_config_dir

    chosen = [word for word in overrides if key_of(word) in ("experiment", "hydra.searchpath") and "," not in word]
    with initialize_config_dir(str(conf), version_base="1.3"):
        return str(compose("config", overrides=[f"stage={stage}", *chosen]).root)


@contextlib.contextmanager
def prepared(overrides: Sequence[str], several: bool = True) -> Iterator[None]:
    """Register our sweeper and launcher with Hydra, and remember where and when the jobs started (for `failures`)."""
    from hydra.core.utils import JobReturn

    global _begun, _folder
    _begun = time.time()
    place = SimpleNamespace(root=_given(overrides, "root"), sweep=_given(overrides, "sweep"))
    _folder = sweep_folder(place) if several else None
    if any("optuna" in word or "study" in word for word in overrides):
        from oodgan.training.study import register

        register()
    if any(word.startswith("hydra") and word.endswith("ray") for word in overrides):
        from oodgan.training import ray_launcher

        ray_launcher.register()
    theirs: Any = JobReturn.return_value
    JobReturn.return_value = property(_outcome, theirs.fset)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        JobReturn.return_value = theirs  # type: ignore[method-assign]


def _outcome(job: Any) -> Any:
    """Hydra's `JobReturn.return_value`, which also prints "Error executing job": `failures` tells what failed."""
    if job.status.name == "FAILED":
        raise job._return_value
    return job._return_value


def failures() -> str:
    """Return a message about the failed jobs of the sweep that this process ran; "" outside of sweeps."""
    if _folder is None:
        return ""
    jobs = sorted(_folder.glob(f"*/{JOB}"), key=lambda path: path.parent.name.zfill(9))
    fresh = [path for path in jobs if path.stat().st_mtime >= _begun - 1]
    notes = [(path.parent.name, read_job(path.parent) or {}) for path in fresh]
    failed = [(name, note) for name, note in notes if note.get("state") == "failed"]
    alike = set.intersection(*(set(note.get("overrides", [])) for _, note in notes)) if len(notes) > 1 else set()
    reasons = []
    for name, note in failed:
        own = " ".join(word for word in note["overrides"] if word not in alike)
        reasons.append(f"{name} ({own}): {note.get('error', 'lost')}")
    return f"{len(failed)} of {len(jobs)} jobs failed: {'; '.join(reasons)}" if failed else ""


def job(cfg: Any, function: Callable[[Any], Any]) -> Any:
    """Run a stage's `function(cfg)`. In a sweep, skip finished jobs, resume interrupted ones, and take a GPU slot.

    `cfg.gpu_slots` (a number or a list of GPU numbers) gives each job that runs at the same time one GPU to itself.

    Raises:
        UserError: the job's folder belongs to another job.
    """
    hydra = _hydra()
    if hydra is None or not _is_multirun(hydra):
        return function(cfg)
    folder = Path(hydra.runtime.output_dir)
    overrides = sorted(word for word in hydra.overrides.task if key_of(word) not in _OF_ALL and word[:5] != "hydra")
    known = read_job(folder)
    if known and known["overrides"] != overrides:
        raise UserError(f"{folder} belongs to another job ({' '.join(known['overrides'])}); give another sweep=NAME")
    if known and known["state"] in ("finished", "pruned"):
        print(f"job {hydra.job.num} is finished already: {folder}", file=sys.stderr)
        return known["result"]
    note: dict[str, Any] = {"overrides": overrides, "state": "running", "result": None}
    _write(folder, note)
    try:
        with gpu_slot(cfg.get("gpu_slots"), folder.parent) as gpu:
            note["gpu"] = gpu
            result = function(_own(cfg, folder))
    except Pruned as pruned:
        _write(folder, {**note, "state": "pruned", "result": {"objective": pruned.value}, "step": pruned.step})
        return {"objective": pruned.value}
    except BaseException as error:
        reason = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        _write(folder, {**note, "state": "failed", "error": " ".join(reason.split())[:2000]})
        raise
    plain = {k: v for k, v in (result or {}).items() if isinstance(v, str | int | float | bool | None)}
    _write(folder, {**note, "state": "finished", "result": plain})
    return result


def read_job(folder: str | Path) -> dict[str, Any] | None:
    """Read `job.json` of a job: overrides, state (running, finished, pruned, failed), result; None if there is none."""
    path = StageFolder(Path(folder)).job
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(folder: Path, note: dict[str, Any]) -> None:
    write_json(StageFolder(folder).job, note)


def _own(cfg: Any, folder: Path) -> Any:
    """Return the job's config, with outputs in its own folder, where it resumes if it was interrupted.

    For a pipeline, the job's folder is the run folder. The cache is shared by all jobs.
    """
    write_text(StageFolder(folder).config, saved.text(cfg))
    if "cache" in cfg:
        cfg.cache = str(cfg.cache)
    if cfg.get("stage") == "pipeline":
        cfg.root, cfg.run = str(folder.parent), folder.name
    elif "folder" in cfg:
        cfg.folder = str(folder)
    if "resume" in cfg and cfg.resume is None:
        cfg.resume = "auto"
    return cfg


@contextlib.contextmanager
def gpu_slot(slots: int | Sequence[int] | None, folder: Path) -> Iterator[int | None]:
    """Wait for a free GPU among `slots`, make it the only visible one, and keep it until the process ends.

    A GPU is reserved by a lock on `folder/.gpu-N`, so that processes of any launcher on this machine share the slots.
    A process keeps its GPU for all of its jobs, because CUDA cannot change it after initialisation.
    """
    global _slot
    numbers = list(range(slots)) if isinstance(slots, int) else list(slots or [])
    if not numbers:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    while _slot is None:
        for number in numbers:
            file = open(folder / f".gpu-{number}", "w")  # noqa: SIM115 (stays open: the lock lives with it)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            _slot = (number, file)
            break
        else:
            time.sleep(1.0)
    os.environ["CUDA_VISIBLE_DEVICES"] = str(_slot[0])
    yield _slot[0]


def _is_multirun(hydra: Any) -> bool:
    return str(hydra.mode).rpartition(".")[2] == "MULTIRUN"


def _hydra() -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get() if HydraConfig.initialized() else None
