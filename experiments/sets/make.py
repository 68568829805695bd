"""Write the sets of photos of this folder: make.py CELEBAHQ_IMAGES CELEBAHQ_MASKS OUT_OF_DOMAIN_PHOTOS."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from oodgan.data.splits import TEST, TRAIN, VAL, HashSplit, stable_fraction
from oodgan.files import hash_of

HERE = Path(__file__).parent
GLASSES, HAT = 3, 14  # classes of CelebAMask-HQ


def hat_or_glasses(mask: Path) -> bool:
    """Whether more than 2 % of a parsing mask's pixels are a hat, or more than 1 % glasses."""
    classes = np.asarray(Image.open(mask))
    return bool((classes == HAT).mean() > 0.02 or (classes == GLASSES).mean() > 0.01)


def write(name: str, rule: str, photos: Iterable[Path]) -> list[Path]:
    photos = list(photos)
    lines = [f"# {rule}", *(f"{hash_of(photo)}  {photo.name}" for photo in sorted(photos))]
    (HERE / f"{name}.sha256").write_text("\n".join(lines) + "\n")
    return photos


def main(images: Path, masks: Path, others: Path) -> None:
    split = HashSplit()
    held_out = [photo for photo in sorted(images.iterdir()) if split(photo.name) != TRAIN]
    covered = [photo for photo in held_out if hat_or_glasses(masks / f"{photo.stem}.png")]
    both: dict[str, list[Path]] = {"choose": [], "report": []}
    for name, part in (("choose", VAL), ("report", TEST)):
        rule = f"CelebA-HQ, 512 px: hat or glasses, {part} part of the hash split"
        both[name] += write(f"celebahq512-{name}", rule, [photo for photo in covered if split(photo.name) == part])
    rule = "CelebA-HQ, 512 px: the first 20 names of the test part of the hash split without hat or glasses"
    plain = [photo for photo in held_out if split(photo.name) == TEST and photo not in covered]
    write("celebahq512-test", rule, plain[:20])
    halves: dict[str, list[Path]] = {"choose": [], "report": []}
    for photo in others.iterdir():
        halves["choose" if stable_fraction(f"report or choose/{photo.stem}") < 0.5 else "report"].append(photo)
    for name, photos in halves.items():
        rule = "the paper's out-of-domain photos, 1024 px, halved by a hash of their names"
        both[name] += write(f"ood1024-{name}", rule, photos)
    for name, photos in both.items():
        write(name, f"ood1024-{name} and celebahq512-{name} together", photos)


if __name__ == "__main__":
    main(*(Path(folder) for folder in sys.argv[1:]))
