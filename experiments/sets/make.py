"""Write the sets of photos of this folder: make.py CELEBAHQ_IMAGES CELEBAHQ_MASKS OUT_OF_DOMAIN_PHOTOS."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from oodgan.data.files import read_parsing
from oodgan.data.splits import TEST, TRAIN, VAL, HashSplit, stable_fraction
from oodgan.files import hash_of

HERE = Path(__file__).parent
GLASSES, MOUTH, HAT = 3, 10, 14  # classes of CelebAMask-HQ


def hat_or_glasses(mask: Path) -> bool:
    """Whether more than 2 % of a parsing mask's pixels are a hat, or more than 1 % glasses."""
    classes = np.asarray(Image.open(mask))
    return bool((classes == HAT).mean() > 0.02 or (classes == GLASSES).mean() > 0.01)


def largest(images: Path, masks: Path, number: int, least: float) -> list[Path]:
    """The 20 photos with the largest area of a class, above `least`; those that no training saw come first."""
    split, area = HashSplit(), {}
    for photo in sorted(images.iterdir()):
        area[photo] = float((read_parsing(masks / f"{photo.stem}.png", 256) == number).float().mean())
    enough = [photo for photo in area if area[photo] > least]
    return sorted(enough, key=lambda photo: (split(photo.name) == TRAIN, -area[photo]))[:20]


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
    shown: list[Path] = []
    for name, number, what, least in (("smile", MOUTH, "mouths", 0.006), ("eyeglasses", GLASSES, "glasses", 0.012)):
        rule = f"CelebA-HQ, 512 px: the 20 with the largest {what}, above {least:.1%}; first photos that are held out"
        shown += write(f"removal-{name}", rule, largest(images, masks, number, least))
    rule = "CelebA-HQ, 512 px: the other names of the test part without hat or glasses, without the removal sets"
    write("celebahq512-final", rule, [photo for photo in plain[20:] if photo not in shown])
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
