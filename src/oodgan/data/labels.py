"""Attribute labels of real faces: CSV, JSON, CelebA's attribute file, FFHQ feature files, NVlabs' dataset.json."""

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

from oodgan.data.names import clean, matched
from oodgan.errors import UserError
from oodgan.foreign import reading

Labels = dict[str, dict[str, float]]
"""attribute -> {file -> value}; a file that an attribute is unknown for is left out of it."""

# CelebA's names of attributes that have other names here, with the sign of the conversion.
_CELEBA = {
    "smiling": ("smile", 1), "male": ("gender", 1), "young": ("age", -1), "no_beard": ("beard", -1),
    "mouth_slightly_open": ("mouth_open", 1), "blond_hair": ("blond", 1), "wearing_lipstick": ("makeup", 1),
}  # fmt: skip
_TRUE, _FALSE = {"yes", "true", "male"}, {"no", "false", "female"}


def read_labels(path: str | Path) -> Labels:
    """Read one label file, also gzipped.

    - `.csv`: columns file, attribute, value; or a first column of files and one column for each attribute
    - `.json`: {file: {attribute: value}} (nested ones are joined by `_`; FFHQ feature files get this package's names),
      a list of {file, attribute, value}, or NVlabs' `dataset.json` (`class`, or `class_0`, ... of vectors)
    - `.txt`: CelebA's `list_attr_celeba.txt` or CelebA-HQ's attribute file

    Raises:
        UserError: missing, of another format, damaged, with two values for one file, or without a single label.
    """
    with reading(path, "label file"):
        return parse_labels(Path(path).name, Path(path).read_bytes())


def parse_labels(name: str, raw: bytes) -> Labels:
    """Parse the content of a label file; the format follows from the name. See `read_labels`."""
    labels = _from_text(name, _text(raw))
    if not any(labels.values()):
        raise UserError("it holds no labels")
    return labels


def of_images(labels: Labels, images: Iterable[str]) -> Labels:
    """Return the labels by image name instead of the names in the label file. Labels without an image are left out.

    Raises:
        UserError: a labelled file matches several images, two match one image, or none matches any.
    """
    files = {file: file for column in labels.values() for file in column}
    image_of = {file: name for name, file in matched(images, files, "images", "labelled files").items()}
    return {
        attribute: {image_of[file]: value for file, value in column.items() if file in image_of}
        for attribute, column in labels.items()
    }


def _text(raw: bytes) -> str:
    try:
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig", "strict")
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error


def _from_text(name: str, text: str) -> Labels:
    if not text.strip():
        raise UserError("it is empty")
    kind = name.removesuffix(".gz").rpartition(".")[2].lower()
    readers = {"csv": _from_csv, "json": _from_json, "txt": _from_celeba}
    if kind not in readers:
        raise UserError(".csv, .json, CelebA's .txt or a folder of masks expected")
    return readers[kind](text)


def _from_csv(text: str) -> Labels:
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = [name.strip() for name in next(reader, [])]
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise UserError("it has a header and no rows")
    if len(columns) < 2:
        raise UserError(f"its header {','.join(columns)!r} has one column: commas between the columns expected")
    long = {"file", "attribute", "value"} <= set(columns)
    triples = []
    for line, row in rows:
        if len(row) > len(columns):
            raise UserError(f"line {line} has {len(row)} cells for {len(columns)} columns")
        cells = dict(zip(columns, row, strict=False))
        place = f"line {line}"
        if long:
            triples.append((place, cells.get("file"), cells.get("attribute"), cells.get("value")))
        else:
            triples += [(place, row[0], name, cells.get(name)) for name in columns[1:]]
    return _collect(triples)


def _from_json(text: str) -> Labels:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"it is not JSON: {error}") from error
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        return _collect((f"entry {i}", r.get("file"), r.get("attribute"), r.get("value")) for i, r in enumerate(data))
    if not isinstance(data, dict):
        raise UserError("an object {file: {attribute: value}} expected")
    if set(data) == {"labels"}:
        return _from_dataset_tool(data["labels"])
    triples = []
    for file, record in data.items():
        if isinstance(record, list):  # ffhq-features-dataset: a list of detected faces
            record = record[0] if record else {}
        if isinstance(record, dict):
            face = record.get("faceAttributes", record)
            with reading(file, "the record of"):
                triples += [(file, file, name, value) for name, value in _ffhq(face).items()]
    return _collect(triples)


def _from_dataset_tool(listed: Any) -> Labels:
    """NVlabs' `dataset.json`: [[file, class or vector], ...], a mapping of the same, or null for none."""
    pairs = listed.items() if isinstance(listed, dict) else listed or []
    triples = []
    for file, label in pairs:
        if isinstance(label, list):
            triples += [(file, file, f"class_{i}", value) for i, value in enumerate(label)]
        else:
            triples.append((file, file, "class", label))
    return _collect(triples)


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


def _from_celeba(text: str) -> Labels:
    lines = text.splitlines()
    if len(lines) < 3 or not re.fullmatch(r"[0-9]+", lines[0].strip()):
        raise UserError("CelebA's attribute format expected (a count, the names, one row a file)")
    names = lines[1].split()
    triples = []
    for number, line in enumerate(lines[2:], 3):
        if not line.strip():
            continue
        file, *values = line.split()
        if len(values) != len(names):
            raise UserError(f"line {number}: the row of {file} has {len(values)} values for {len(names)} names")
        for name, value in zip(names, values, strict=True):
            ours, sign = _CELEBA.get(name.lower(), (name.lower(), 1))
            known = _number(value)
            triples.append((f"line {number}", file, ours, None if known is None else sign * known))
    return _collect(triples)


def _collect(rows: Iterable[tuple[str, Any, Any, Any]]) -> Labels:
    """Collect labels from rows (place, file, attribute, value); errors name the place."""
    labels: Labels = {}
    for place, file, name, value in rows:
        if not file or not name:
            raise UserError(f"{place}: every row needs file, attribute and value")
        number = _number(value)
        if number is None:
            continue
        column = labels.setdefault(_snake(str(name)), {})
        if column.setdefault(clean(str(file)), number) != number:
            raise UserError(f"{place}: {file} has two values of {name}, {column[clean(str(file))]:g} and {number:g}")
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
