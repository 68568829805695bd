"""Scores already computed: one small file per batch, so that an interrupted evaluation continues."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodgan.files import replacing


@dataclass(frozen=True)
class Scores:
    """Scores of one photo: `values` (methods, metrics) with nan where there was nothing to measure; `features`
    (methods + 1, d) the set metrics' features of the results and, last, of the photo, or (0, 0) without set metrics."""

    index: int
    name: str
    values: NDArray[np.float64]
    features: NDArray[np.float32]


class Store:
    """A folder of scores. Files are written under a temporary name and renamed, so incomplete ones are never read.

    `read` loads the files one by one, so memory use is small.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, scores: Sequence[Scores]) -> None:
        """Save a batch."""
        path = self.folder / f"{scores[0].index:08d}.npz"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                index=np.array([s.index for s in scores]),
                name=np.array([s.name for s in scores]),
                values=np.stack([s.values for s in scores]),
                features=np.stack([s.features for s in scores]),
            )

    def read(self) -> Iterator[Scores]:
        """Yield all scores, ordered by file; a damaged file counts as not scored."""
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            try:
                with np.load(path, allow_pickle=False) as held:
                    arrays = [held[key] for key in ("index", "name", "values", "features")]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
                continue
            for index, name, values, features in zip(*arrays, strict=True):
                yield Scores(int(index), str(name), values, features)

    def done(self) -> set[str]:
        """Return the names of the photos that are already scored."""
        return {scores.name for scores in self.read()}
