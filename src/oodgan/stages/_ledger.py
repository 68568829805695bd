"""`edits.json`: the record of the results in an output folder, their photos and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodgan import __version__
from oodgan.errors import UserError
from oodgan.files import locked, write_json
from oodgan.tracking.artifacts import hash_settings

FILE = "edits.json"
SAVED = ("result", "pasted", "photo", "inverted", "edited", "mask", "coarse")
"""What can be saved of an edit, each kind in a folder of this name."""

KINDS = (*SAVED, "grid")
"""The folders that edits write to."""


@dataclass
class Ledger:
    """The record of an output folder, which several commands may write to at once.

    `settings` maps a hash to the settings; `photos` maps a result's name to its photo, the hash of its settings,
    seconds of each step, number of faces, notes, searched strengths, and whether it is finished; `failures` maps a path
    to the reason. Each change locks the file and first reads what other commands have recorded.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    photos: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _own: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Read a folder's record; an empty one if there is none. Raises UserError for a damaged file."""
        if folder.exists() and not folder.is_dir():
            raise UserError(f"output={folder} is a file; name a folder")
        ledger = cls(folder)
        ledger._read()
        return ledger

    def _read(self) -> None:
        path = self.folder / FILE
        if not path.is_file():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            settings, photos, failures = (dict(stored[key]) for key in ("settings", "photos", "failures"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); move it away, or choose another output folder") from error
        self.settings, self.photos, self.failures = {**settings, **self._own}, photos, failures

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Lock and reload the record, let the block change it, and write it."""
        with locked(self.folder / FILE):
            self._read()
            yield
            self._write()

    def use(self, settings: Mapping[str, Any]) -> str:
        """Record the settings of this run; returns their hash."""
        settings_hash = hash_settings(settings)[:16]
        self._own[settings_hash] = self.settings[settings_hash] = dict(settings)
        return settings_hash

    def claim(self, name: str, files: Iterable[Path], replace: bool, **entry: Any) -> None:
        """Record that a photo is being edited, just before `files` are written.

        Raises:
            UserError: as `refuse`, unless `replace`; another command may have been faster.
        """
        with self._changing():
            if not replace:
                self.refuse(name, entry["settings"], entry["sha256"], files)
            self.photos[name] = {**entry, "finished": False}

    def finished(self, name: str, settings_hash: str, source: str, files: Iterable[Path]) -> bool:
        """Return whether the photo was edited with these settings and all `files` exist."""
        entry = self.photos.get(name, {})
        return (
            bool(entry.get("finished")) and self._same(entry, settings_hash, source) and all(f.is_file() for f in files)
        )

    def refuse(self, name: str, settings_hash: str, source: str, files: Iterable[Path]) -> None:
        """Raise UserError if this photo's results would overwrite results made with other settings."""
        entry = self.photos.get(name)
        if entry is None:
            foreign = next((f for f in files if f.exists()), None)
            if foreign is not None:
                raise UserError(f"{foreign} exists and was not made by this command; choose another output folder, or "
                                "use replace=true")  # fmt: skip
        elif not self._same(entry, settings_hash, source):
            why = self._difference(entry, settings_hash) or f"another photo ({entry.get('photo')})"
            raise UserError(f"{self.folder} holds results of {name} made with {why}; choose another output folder, or "
                            "use replace=true")  # fmt: skip

    @staticmethod
    def _same(entry: Mapping[str, Any], settings_hash: str, source: str) -> bool:
        return entry.get("settings") == settings_hash and entry.get("sha256") == source

    def _difference(self, entry: Mapping[str, Any], settings_hash: str) -> str:
        old, new = self.settings.get(str(entry.get("settings")), {}), self.settings[settings_hash]
        keys = [key for key in new if old.get(key) != new[key]]
        if not keys or entry.get("settings") == settings_hash:
            return ""
        return "other settings: " + ", ".join(_changed(key, old.get(key), new[key]) for key in keys)

    def note(self, name: str, **entry: Any) -> None:
        """Record a finished photo."""
        with self._changing():
            self.photos[name] = {**entry, "finished": True}
            self.failures.pop(str(entry.get("photo")), None)

    def fail(self, path: Path, reason: str) -> None:
        """Record a failure."""
        with self._changing():
            self.failures[str(path)] = reason

    def _write(self) -> None:
        """Write the file, dropping settings that no photo has any more."""
        used = {entry.get("settings") for entry in self.photos.values()}
        kept = {settings_hash: settings for settings_hash, settings in self.settings.items() if settings_hash in used}
        content = {"version": __version__, "settings": kept, "photos": self.photos, "failures": self.failures}
        write_json(self.folder / FILE, content)


def _changed(key: str, old: Any, new: Any) -> str:
    brief = all(len(str(value)) < 60 for value in (old, new))
    return f"{key}={_brief(old)} instead of {_brief(new)}" if brief else key


def _brief(value: Any) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}" if isinstance(value, dict) else str(value)
