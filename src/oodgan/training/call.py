"""The arguments of one training, and values derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from oodgan.errors import UserError, unknown
from oodgan.paths import FitFolder
from oodgan.remote import local
from oodgan.training.engine import described

BEST, LAST = "best", "last"


@dataclass
class Call:
    """The arguments of one `fit`, as plain values, so that they can be sent to other processes."""

    config: dict[str, Any]
    settings: dict[str, Any]
    folder: Path
    resume: str | None
    init_from: str | None
    extra: tuple[pl.Callback, ...]
    keep_run: bool = False

    @property
    def trainer(self) -> dict[str, Any]:
        return described(self.config)

    @property
    def stage(self) -> str:
        stage = self.config.get("stage")
        return stage if isinstance(stage, str) else str((stage or {}).get("name", "fit"))

    @property
    def seed(self) -> int:
        return int(self.config.get("seed") or 0)

    @property
    def accumulate(self) -> int:
        return int(self.settings.get("accumulate") or self.trainer.get("accumulate_grad_batches") or 1)

    @property
    def clip(self) -> float | None:
        return self.settings.get("clip") or self.trainer.get("gradient_clip_val")

    @property
    def limit_val(self) -> int | None:
        """Number of batches per validation over all processes; None: set by the Trainer or unlimited."""
        if self.settings.get("limit_val") is not None:
            return int(self.settings["limit_val"])
        limit = self.trainer.get("limit_val_batches")
        return limit if isinstance(limit, int) and not isinstance(limit, bool) else None

    @property
    def trial(self) -> bool:
        """Whether this is `trainer.fast_dev_run`, which writes nothing."""
        return bool(self.trainer.get("fast_dev_run"))

    @property
    def export(self) -> str:
        return self.settings.get("export") or (BEST if self.monitored else LAST)

    @property
    def monitored(self) -> str | None:
        entry = dict(self.config.get("callbacks") or {}).get("checkpoints") or {}
        return self.settings.get("monitor") or entry.get("monitor")

    def check(self) -> None:
        if self.export not in (BEST, LAST):
            raise unknown("export", str(self.export), (BEST, LAST))
        if self.export == BEST and not self.monitored:
            raise UserError("export=best needs a metric that decides what is best: give fit.monitor, or export=last")
        if int(self.settings.get("max_steps") or 0) < 1:
            raise UserError(f"max_steps is {self.settings.get('max_steps')}, must be at least 1")
        present = FitFolder(self.folder).last.is_file()
        if self.resume == "auto":
            self.resume = str(self.folder) if present else None
            self.init_from = None if present else self.init_from
        elif self.resume:
            self.resume = str(local(self.resume))
        if self.resume and self.init_from:
            raise UserError("resume continues a run and init_from starts a new one: give one of them")
        if present and (not self.resume or Path(self.resume).absolute() != self.folder):
            raise UserError(f"{self.folder} holds a run already; go on with resume={self.folder}, or choose another")
