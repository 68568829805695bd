"""`edits.json`: what was made in an output folder, from which photos, with which settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodgan import __version__
from oodgan.errors import UserError
from oodgan.files import write_text
from oodgan.tracking.artifacts import fingerprint

FILE = "edits.json"


@dataclass
class Ledger:
    """The record of an output folder.

    `settings` maps a hash to the settings behind it; `photos` maps a result's name to where it came from, its
    settings' hash, seconds of each step, number of faces, notes, and whether it is finished; `failures` maps a path to
    the reason.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    photos: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Read a folder's record; an empty one where there is none. Raises UserError for a damaged file."""
        path = folder / FILE
        if folder.exists() and not folder.is_dir():
            raise UserError(f"output={folder} is a file; name a folder")
        if not path.is_file():
            return cls(folder)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, dict(stored["settings"]), dict(stored["photos"]), dict(stored["failures"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); move it away, or choose another output folder") from error

    def use(self, settings: Mapping[str, Any]) -> str:
        """Note the settings of this run; their hash."""
        mark = fingerprint(settings)[:16]
        self.settings[mark] = dict(settings)
        return mark

    def finished(self, name: str, mark: str, source: str, files: Iterable[Path]) -> bool:
        """Whether the photo was edited with these settings already and all `files` are there."""
        entry = self.photos.get(name, {})
        return bool(entry.get("finished")) and self._same(entry, mark, source) and all(f.is_file() for f in files)

    def refuse(self, name: str, mark: str, source: str, files: Iterable[Path]) -> None:
        """Raise UserError when writing this photo's results would overwrite something made otherwise."""
        entry = self.photos.get(name)
        if entry is None:
            foreign = next((f for f in files if f.exists()), None)
            if foreign is not None:
                raise UserError(f"{foreign} exists and was not made by this command; choose another output folder, or "
                                "say replace=true")  # fmt: skip
        elif not self._same(entry, mark, source):
            why = self._difference(entry, mark) or f"another photo ({entry.get('photo')})"
            raise UserError(f"{self.folder} holds results of {name} made with {why}; choose another output folder, or "
                            "say replace=true")  # fmt: skip

    @staticmethod
    def _same(entry: Mapping[str, Any], mark: str, source: str) -> bool:
        return entry.get("settings") == mark and entry.get("sha256") == source

    def _difference(self, entry: Mapping[str, Any], mark: str) -> str:
        old, new = self.settings.get(str(entry.get("settings")), {}), self.settings[mark]
        keys = [key for key in new if old.get(key) != new[key]]
        if not keys or entry.get("settings") == mark:
            return ""
        return "other settings: " + ", ".join(_changed(key, old.get(key), new[key]) for key in keys)

    def note(self, name: str, **entry: Any) -> None:
        """Record a photo and write the file."""
        self.photos[name] = entry
        self.failures.pop(str(entry.get("photo")), None)
        self.save()

    def fail(self, path: Path, reason: str) -> None:
        """Record a failure and write the file."""
        self.failures[str(path)] = reason
        self.save()

    def save(self) -> None:
        """Write the file, dropping settings that no photo has any more."""
        used = {entry.get("settings") for entry in self.photos.values()}
        kept = {mark: settings for mark, settings in self.settings.items() if mark in used}
        content = {"version": __version__, "settings": kept, "photos": self.photos, "failures": self.failures}
        try:
            write_text(self.folder / FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.folder / FILE}: {error.strerror or error}") from error


def sweep(folder: Path) -> None:
    """Delete what a killed run left half-written in an output folder: temporary files whose process is gone."""
    for path in folder.rglob(".*") if folder.is_dir() else ():
        match = re.fullmatch(r"\..+\.(\d+)\.(tmp|partial)", path.name)
        if match and not _alive(int(match[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _changed(key: str, old: Any, new: Any) -> str:
    brief = all(len(str(value)) < 60 for value in (old, new))
    return f"{key}={_brief(old)} instead of {_brief(new)}" if brief else key


def _brief(value: Any) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}" if isinstance(value, dict) else str(value)
