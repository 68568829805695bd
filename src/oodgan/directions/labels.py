"""Attribute labels of real faces, from label files (`oodgan.data.labels`) or measured on face-parsing masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from oodgan.data.files import read_parsing
from oodgan.data.images import read_rgb
from oodgan.data.labels import Labels, of_images, read_labels
from oodgan.data.listing import Listing
from oodgan.data.names import matched
from oodgan.directions.geometry import measure


def labels_of(path: str | Path, images: Mapping[str, Path]) -> Labels:
    """Labels of `images` (name -> file) from a label file, or from a folder of CelebAMask-HQ palette PNGs.

    Raises:
        UserError: as `read_labels` and `of_images`; a mask fits no image or several, or is not a parsing mask.
    """
    path = Path(path)
    if not path.is_dir():
        return of_images(read_labels(path), images)
    masks = matched(images, Listing.of(path, "parsing masks", (".png",)).files(), "images", "masks")
    labels: Labels = {}
    for name, file in masks.items():
        mask = read_parsing(file).numpy().astype(np.uint8)
        photo = np.asarray(read_rgb(images[name]).resize((mask.shape[1], mask.shape[0])))
        for attribute, value in measure(mask, photo).items():
            labels.setdefault(attribute, {})[name] = value
    return labels
