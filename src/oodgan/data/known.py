"""Remembers which files of a data set are undamaged, so that 70,000 files are checked only once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from oodgan.data.images import decoders
from oodgan.errors import UserError
from oodgan.files import write_text
from oodgan.weights.fetch import cache_folder

log = logging.getLogger("oodgan")


@dataclass
class Known:
    """Answers of earlier checks by name: [what told the file's state then, why it is damaged or None].

    They lie in the cache folder, a file for each data set, and are written when the `with` block ends.
    """

    file: Path
    answers: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    _old: dict[str, list] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str) -> Known:
        """Return the record of a data set, by its absolute path."""
        # A decoder installed later may read files that were unreadable before.
        key = hashlib.sha256(os.fsencode(f"{os.path.abspath(where)} {decoders()}")).hexdigest()[:16]
        known = cls(cache_folder() / "checked" / f"{key}.json")
        try:
            stored = json.loads(known.file.read_text(encoding="utf-8"))
            known._old = {name: entry for name, entry in stored.items() if len(entry) == 2}
        except (OSError, ValueError, AttributeError, TypeError):  # missing, or from another version
            known._old = {}
        return known

    def ask(self, name: str, stamp: str | None, check: Callable[[str], str | None]) -> str | None:
        """Return why the file is damaged, or None. Calls `check(name)` if the file is new or has changed."""
        if stamp is None:
            return check(name)
        before = self._old.get(name)
        reason = before[1] if before is not None and before[0] == stamp else check(name)
        self.answers[name] = (stamp, reason)
        return reason

    def __enter__(self) -> Known:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if {name: list(answer) for name, answer in self.answers.items()} == self._old or not self.answers:
            return
        try:
            write_text(self.file, json.dumps(self.answers, separators=(",", ":")))
        except UserError as refused:
            log.info("the list of checked files is not saved: %s", refused)
