"""FID between edited photos and real photos that have the attribute, as StyleFeatureEditor's table reports it.

The photos of a test set without the attribute are edited; the results are compared with the unedited photos of the same
test set that have it. (For removing an attribute, the reverse.) The rules are those of
`scripts/fid_calculation.py` in github.com/AIRI-Institute/StyleFeatureEditor (6bc5db2): labels of CelebAMask-HQ's table,
1024 px, pytorch-fid's features, all photos of both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from oodgan.data.images import read_image
from oodgan.data.names import bare
from oodgan.data.splits import read_table
from oodgan.errors import UserError, unknown
from oodgan.evaluation.pairs import Pair

KEYS = {"name", "present", "table"}


@dataclass(frozen=True)
class Attribute:
    """An attribute of labelled photos.

    Attributes:
        name: a column of the table, e.g. `Eyeglasses`.
        present: True when the edit adds the attribute, False when it takes it away.
        labels: photo number or name without ending -> whether it has the attribute.
    """

    name: str
    present: bool
    labels: Mapping[str, bool]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Attribute:
        """Read `table`, CelebAMask-HQ's `CelebAMask-HQ-attribute-anno.txt`, plain or gzip.

        Raises:
            UserError: an unknown key or column, or no such table.
        """
        for key in config:
            if key not in KEYS:
                raise unknown("attribute key", key, KEYS)
        if missing := KEYS - set(config):
            raise UserError(f"metrics.attribute needs {', '.join(sorted(missing))} too")
        name, table = str(config["name"]), Path(str(config["table"])).expanduser()
        columns = read_table(table, 40)
        if not columns or name not in columns[0]:
            raise unknown(f"attribute of {table.name}", name, columns[0] if columns else [])
        column = columns[0].index(name) + 1
        rows = read_table(table, 41)
        return cls(name, bool(config["present"]), {bare(row[0]): row[column] == "1" for row in rows})

    def sides(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the photos to edit, and the real ones to compare the results with, each sorted.

        Raises:
            UserError: a photo without a label, or fewer than two on a side.
        """
        edited: list[str] = []
        real: list[str] = []
        for name in names:
            if bare(name) not in self.labels:
                raise UserError(f"the photo {name} has no row in the table of attributes; name photos as its rows are")
            (real if self.labels[bare(name)] == self.present else edited).append(name)
        if min(len(edited), len(real)) < 2:
            has = f"{len(real)} photos {'with' if self.present else 'without'} {self.name} and {len(edited)} others"
            raise UserError(f"there are {has}; FID needs at least 2 on each side")
        return edited, real


def real_moments(photos: Sequence[Pair], protocol: Any, path: Path, device: str, batch: int = 8) -> dict[str, Tensor]:
    """Return running sums of the features of real photos for FID, cached in the file `path`."""
    import torch
    from safetensors.torch import load_file, save_file

    from oodgan.evaluation.score import extractor
    from oodgan.files import replacing
    from oodgan.metrics.distribution import FID
    from oodgan.training.progress import track

    if path.is_file():
        return load_file(path)
    extract, name = extractor(protocol)
    fid = FID(extract, name, sync_on_compute=False)
    starts = range(0, len(photos), batch)
    for start in track(starts, "evaluate: real photos", len(starts)):
        images = [read_image(pair.photo)[None] for pair in photos[start : start + batch]]
        fid.update(extract(torch.cat([protocol.prepare(image) for image in images]).to(device)).cpu(), real=True)
    moments = {key: value.contiguous() for key, value in fid.moments(real=True).items()}
    with replacing(path) as temporary:
        save_file(moments, temporary)
    return moments
