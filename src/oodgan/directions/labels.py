"""Attribute labels of real faces: CSV, JSON, CelebA's attribute file, FFHQ feature files, face-parsing masks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oodgan.errors import UserError

Labels = dict[str, dict[str, float]]
"""attribute -> {file stem -> value}; a file that an attribute is unknown for is left out of it."""

# CelebA's names for what this package names otherwise, with the sign that turns one into the other.
_CELEBA = {
    "smiling": ("smile", 1), "male": ("gender", 1), "young": ("age", -1), "no_beard": ("beard", -1),
    "mouth_slightly_open": ("mouth_open", 1), "blond_hair": ("blond", 1), "wearing_lipstick": ("makeup", 1),
}  # fmt: skip
_TRUE, _FALSE = {"yes", "true", "male"}, {"no", "false", "female"}


def read_labels(path: str | Path, images: Mapping[str, Path] | None = None) -> Labels:
    """Read one label source.

    - `.csv`: columns file, attribute, value; or a first column of files and one column for each attribute
    - `.json`: {file: {attribute: value}} (nested ones are joined by `_`; FFHQ feature files get this package's names),
      or a list of {file, attribute, value}
    - `.txt`: CelebA's `list_attr_celeba.txt` or CelebA-HQ's attribute file, also gzipped
    - a folder of CelebAMask-HQ palette PNGs, measured by `oodgan.directions.geometry` (needs `images`)

    Raises:
        UserError: missing, of another format, or without a single label.
    """
    path = Path(path)
    if path.is_dir():
        labels = _from_masks(path, images or {})
    elif not path.is_file():
        raise UserError(f"no such label file: {path}")
    else:
        labels = _from_text(path, _text(path))
    if not any(labels.values()):
        raise UserError(f"{path} holds no labels")
    return labels


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"label file {path} cannot be read: {error}") from error


def _from_text(path: Path, text: str) -> Labels:
    if not text.strip():
        raise UserError(f"label file {path} is empty")
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "csv":
        return _from_csv(path, text)
    if kind == "json":
        return _from_json(path, text)
    if kind == "txt":
        return _from_celeba(path, text)
    raise UserError(f"label file {path}: .csv, .json, CelebA's .txt or a folder of masks expected")


def _from_csv(path: Path, text: str) -> Labels:
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise UserError(f"label file {path} has a header and no rows")
    columns = [name for name in rows[0] if name is not None]
    if {"file", "attribute", "value"} <= set(columns):
        triples = ((row["file"], row["attribute"], row["value"]) for row in rows)
    else:
        triples = ((row[columns[0]], name, row[name]) for row in rows for name in columns[1:])
    return _collect(triples, path)


def _from_json(path: Path, text: str) -> Labels:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"label file {path} is no JSON: {error}") from error
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        return _collect(((r.get("file"), r.get("attribute"), r.get("value")) for r in data), path)
    if not isinstance(data, dict):
        raise UserError(f"label file {path}: an object {{file: {{attribute: value}}}} expected")
    triples = []
    for file, record in data.items():
        if isinstance(record, list):  # ffhq-features-dataset: a list of detected faces
            record = record[0] if record else {}
        if isinstance(record, dict):
            triples += [(file, name, value) for name, value in _ffhq(record.get("faceAttributes", record)).items()]
    return _collect(triples, path)


def _ffhq(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten one record; the fields of FFHQ feature files get this package's attribute names."""
    flat = dict(_flatten(record))
    for name in ("yaw", "pitch", "roll"):
        _move(flat, f"headPose_{name}", name)
    for name in ("beard", "moustache", "sideburns"):
        _move(flat, f"facialHair_{name}", name)
    _move(flat, "hair_bald", "bald")
    _move(flat, "makeup_lipMakeup", "makeup")
    _move(flat, "lip_makeup", "makeup")
    if "beard" in flat and "moustache" in flat:
        flat["beard"] = (float(flat["beard"]) + float(flat["moustache"])) / 2
    if "glasses" in flat:
        # Sunglasses hide the eyes: neither an example of clear glasses nor of none.
        flat["eyeglasses"] = {"NoGlasses": 0.0, "ReadingGlasses": 1.0}.get(str(flat.pop("glasses")))
    colours = record.get("hair")
    if isinstance(colours, Mapping):
        listed = colours.get("hairColor")
        if isinstance(listed, list):
            colours = {c["color"]: c["confidence"] for c in listed}
        if "blond" in colours and "black" in colours:
            flat["blond"] = float(colours["blond"]) - float(colours["black"])
    return flat


def _flatten(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}_")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def _move(flat: dict[str, Any], old: str, new: str) -> None:
    if old in flat:
        flat[new] = flat.pop(old)


def _from_celeba(path: Path, text: str) -> Labels:
    lines = text.splitlines()
    if len(lines) < 3 or not re.fullmatch(r"\d+", lines[0].strip()):
        raise UserError(f"label file {path}: CelebA's attribute format expected (a count, the names, one row a file)")
    names = lines[1].split()
    rows = [line.split() for line in lines[2:] if line.strip()]
    for row in rows:
        if len(row) != len(names) + 1:
            raise UserError(f"label file {path}: the row of {row[0]} has {len(row) - 1} values for {len(names)} names")
    triples = []
    for name, column in zip(names, zip(*(row[1:] for row in rows), strict=True), strict=True):
        ours, sign = _CELEBA.get(name.lower(), (name.lower(), 1))
        triples += [(row[0], ours, str(sign * int(v))) for row, v in zip(rows, column, strict=True)]
    return _collect(triples, path)


def _from_masks(folder: Path, images: Mapping[str, Path]) -> Labels:
    import numpy as np
    from PIL import Image

    from oodgan.directions.geometry import measure

    labels: Labels = {}
    for file in sorted(folder.rglob("*.png")):
        if file.stem not in images:
            continue
        mask = np.asarray(Image.open(file))
        with Image.open(images[file.stem]) as image:
            photo = np.asarray(image.convert("RGB").resize((mask.shape[1], mask.shape[0])))
        for name, value in measure(mask, photo).items():
            labels.setdefault(name, {})[file.stem] = value
    if not labels:
        raise UserError(f"{folder} holds no mask PNG named like one of the images")
    return labels


def _collect(triples: Iterable[tuple[Any, Any, Any]], path: Path) -> Labels:
    labels: Labels = {}
    for file, name, value in triples:
        if not file or not name:
            raise UserError(f"label file {path}: every row needs file, attribute and value")
        number = _number(value)
        if number is not None:
            labels.setdefault(_snake(str(name)), {})[Path(str(file)).stem] = number
    return labels


def _snake(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip()).lower()


def _number(value: Any) -> float | None:
    """A label as a number; None for what is missing or only text."""
    text = str(value).strip().lower()
    if text in _TRUE | _FALSE:
        return float(text in _TRUE)
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
