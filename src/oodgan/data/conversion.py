"""Convert a data set to shards, an archive, LMDB, a table or a folder, optionally resized; names and labels stay."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oodgan.data import images
from oodgan.data.encoded import LABELS, MASK, Encoded, centre, read_parsing
from oodgan.data.names import bare, distinct, readable
from oodgan.errors import UserError, unknown
from oodgan.files import refusing, replacing, to_json, writing

KINDS = ("webdataset", "folder", "zip", "lmdb", "parquet")
ENDINGS = {".zip": "zip", ".lmdb": "lmdb", ".parquet": "parquet"}
_ROWS = 64  # rows per group of a parquet file: small groups are fast in random order


@dataclass(frozen=True)
class Entry:
    """An image to write: name, bytes of its file, labels, and the bytes of its parsing mask if it has one."""

    name: str
    image: bytes
    labels: dict[str, float]
    mask: bytes | None


Write = Callable[[Entry], None]


def convert(
    source: Encoded,
    to: str | Path,
    kind: str | None = None,
    size: int | None = None,
    form: str = "png",
    quality: int = 95,
    per_shard: int = 1000,
    replace: bool = False,
    track: Callable[[Iterable[int], int], Iterable[int]] = lambda items, total: items,
) -> int:
    """Write a data set to `to` and return the number of images written.

    Args:
        kind: one of `KINDS`; None: by the ending of `to` (.zip, .lmdb, .parquet), else `webdataset`.
        size: side of the centred squares, written as `form` (png or jpg at `quality`); None: copy the files.
        per_shard: images per tar shard.
        track: shows progress over the images.

    Raises:
        UserError: unknown kind or form, `to` exists, an image cannot be read, a library is missing, or the disk cannot
            be written. Nothing is written in these cases.
    """
    to = Path(to).expanduser()
    kind = kind or ENDINGS.get(to.suffix.lower(), "webdataset")
    if kind not in KINDS:
        raise unknown("kind of data set", kind, KINDS)
    if form not in ("png", "jpg"):
        raise unknown("form", form, ("png", "jpg"))
    if per_shard < 1 or (size is not None and size < 1):
        raise UserError(f"per_shard={per_shard} and size={size}: at least 1 expected")
    distinct(source.names, lambda name: bare(readable(name)), "would be one sample: rename one of them")
    if to.exists() and not replace:
        raise UserError(f"{to} exists already; choose another place, or use replace=true")
    with _WRITERS[kind](to, source, per_shard) as write:
        for index in track(range(len(source)), len(source)):
            write(_entry(source, index, size, form, quality))
    return len(source)


def _entry(source: Encoded, index: int, size: int | None, form: str, quality: int) -> Entry:
    name, labels = readable(source.name(index)), source.labels(index)
    image, mask = source.encoded(index)
    mask = mask.read_bytes() if isinstance(mask, Path) else mask
    if size is None:
        return Entry(name, image, labels, mask)
    picture = images.read_image(io.BytesIO(image), f"{source.where}/{name}")
    square = centre(images.to_pil(picture))
    resized = images.to_pil(images.resize(images.from_pil(square), size))
    if mask is not None:
        classes = read_parsing(io.BytesIO(mask), size, f"the mask of {source.where}/{name}")
        mask = _png(Image.fromarray(classes.numpy().astype(np.uint8)))
    held = io.BytesIO()
    options: dict[str, Any] = {"quality": quality, "subsampling": 0} if form == "jpg" else {"compress_level": 4}
    resized.save(held, "JPEG" if form == "jpg" else "PNG", **options)
    return Entry(f"{bare(name)}.{form}", held.getvalue(), labels, mask)


def _json(labels: Any) -> bytes:
    return to_json(labels).encode("utf-8", "backslashreplace")


def _png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()


@contextmanager
def _webdataset(to: Path, source: Encoded, per_shard: int) -> Iterator[Write]:
    with writing(to, replace=True) as folder:
        opened: list[tarfile.TarFile] = []
        written = 0

        def write(entry: Entry) -> None:
            nonlocal written
            with refusing(to):
                if written % per_shard == 0:
                    _close(opened)
                    opened.append(tarfile.open(folder / f"{written // per_shard:06d}.tar", "w"))  # noqa: SIM115
                before, dot, kind = entry.name.rpartition(".")
                key = (before or entry.name).replace(".", "_")  # a sample's name ends at its first dot
                members = {f"{key}.{kind}" if dot else f"{key}.png": entry.image}
                members |= {f"{key}.json": _json(entry.labels)} if entry.labels else {}
                members |= {f"{key}{MASK}": entry.mask} if entry.mask is not None else {}
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    opened[-1].addfile(info, io.BytesIO(data))
            written += 1

        try:
            yield write
        finally:
            _close(opened)


def _close(opened: list[tarfile.TarFile]) -> None:
    while opened:
        opened.pop().close()


@contextmanager
def _folder(to: Path, source: Encoded, _: int) -> Iterator[Write]:
    labels: dict[str, dict[str, float]] = {}
    with writing(to, replace=True) as folder:

        def write(entry: Entry) -> None:
            _put(folder / "images" / entry.name, entry.image)
            if entry.mask is not None:
                _put(folder / "masks" / f"{bare(entry.name)}.png", entry.mask)
            if entry.labels:
                labels[entry.name] = entry.labels

        yield write
        if labels:
            _put(folder / LABELS, _json(labels))


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextmanager
def _zip(to: Path, source: Encoded, _: int) -> Iterator[Write]:
    labels: dict[str, dict[str, float]] = {}
    with replacing(to) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def write(entry: Entry) -> None:
            archive.writestr(entry.name, entry.image)
            if entry.mask is not None:
                archive.writestr(f"{bare(entry.name)}{MASK}", entry.mask)
            if entry.labels:
                labels[entry.name] = entry.labels

        yield write
        if labels:
            name, content = _for_zip(labels)
            archive.writestr(name, json.dumps(content))


def _for_zip(labels: dict[str, dict[str, float]]) -> tuple[str, Any]:
    """Classes as NVlabs' tools read them, other labels by name."""
    if all(set(values) == {"class"} and values["class"].is_integer() for values in labels.values()):
        return "dataset.json", {"labels": [[name, int(values["class"])] for name, values in labels.items()]}
    return LABELS, labels


@contextmanager
def _lmdb(to: Path, source: Encoded, _: int) -> Iterator[Write]:
    try:
        import lmdb
    except ImportError:
        raise UserError("LMDB needs the library lmdb: pip install 'oodgan[lmdb]'") from None
    labels: dict[str, dict[str, float]] = {}
    with writing(to, replace=True) as folder:
        environment = lmdb.open(str(folder), map_size=1 << 40, lock=False)

        def put(key: str, value: bytes) -> None:
            try:
                with environment.begin(write=True) as transaction:
                    transaction.put(key.encode("utf-8", "surrogateescape"), value)
            except lmdb.Error as error:
                raise UserError(f"cannot write {to}: {error}") from error

        def write(entry: Entry) -> None:
            put(entry.name, entry.image)
            if entry.mask is not None:
                put(f"{bare(entry.name)}{MASK}", entry.mask)
            if entry.labels:
                labels[entry.name] = entry.labels

        try:
            yield write
            if labels:
                put(LABELS, _json(labels))
        finally:
            environment.close()


@contextmanager
def _parquet(to: Path, source: Encoded, _: int) -> Iterator[Write]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError("parquet needs the library pyarrow: pip install 'oodgan[parquet]'") from None
    rows: list[Entry] = []
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with replacing(to) as temporary:
        fields = [("image", picture), ("parsing", picture), *((name, pa.float64()) for name in source.attributes)]
        writer = parquet.ParquetWriter(temporary, pa.schema(fields))

        def flush() -> None:
            columns: dict[str, list[Any]] = {
                "image": [{"bytes": e.image, "path": e.name} for e in rows],
                "parsing": [None if e.mask is None else {"bytes": e.mask, "path": None} for e in rows],
                **{name: [e.labels.get(name) for e in rows] for name in source.attributes},
            }
            writer.write_table(pa.table(columns, schema=writer.schema), row_group_size=_ROWS)
            rows.clear()

        def write(entry: Entry) -> None:
            rows.append(entry)
            if len(rows) == _ROWS:
                flush()

        try:
            yield write
            flush()
        finally:
            writer.close()


_WRITERS: dict[str, Callable[[Path, Encoded, int], AbstractContextManager[Write]]] = {
    "webdataset": _webdataset, "folder": _folder, "zip": _zip, "lmdb": _lmdb, "parquet": _parquet,
}  # fmt: skip
