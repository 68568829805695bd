"""Images in parquet files and in Hugging Face's data sets on disk (`save_to_disk`)."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

from oodgan.data.encoded import Encoded
from oodgan.data.labels import Labels
from oodgan.errors import UserError, unknown
from oodgan.foreign import reading
from oodgan.remote import local

_GROUPS = 4  # row groups of a parquet file that a process keeps decoded


class Parquet(Encoded):
    """Rows of parquet or Arrow files with a column of encoded images, as Hugging Face's data sets store them.

    Args:
        path: a `.parquet` or `.arrow` file, a folder of them (also what `Dataset.save_to_disk` wrote), or a glob.
        image: the images' column: bytes, or {bytes, path}; the paths name the images where they differ, else numbers.
        parsing: the column of parsing masks (`parsing` where there is one), or a folder of them.
        labels: a label file; None takes the columns of numbers.

    Other arguments, and what is raised, as of `Encoded`; also for the library pyarrow missing, and no such column.
    Random order is fast in Arrow files and in small row groups: `oodgan data convert` writes the latter as shards.
    """

    def __init__(
        self,
        path: str | Path,
        size: int = 256,
        image: str = "image",
        check: bool = True,
        labels: str | Path | None = None,
        parsing: str | None = None,
    ) -> None:
        self.image, self.files = image, _files(path)
        self._handle: tuple[int, Any] | None = None
        self._rows: list[tuple[int, int, int]] = []  # file, row group, row in it
        with reading(path, "table"):
            columns = self._columns()
            names = self._names()
        own_masks = parsing or "parsing"
        self._mask_column = own_masks if own_masks in columns else None
        self._place = dict(zip(names, self._rows, strict=True))
        own = labels or self._numbers(columns, names)
        super().__init__(str(path), names, size, check, own, None if self._mask_column else parsing)

    def _columns(self) -> list[str]:
        """Return the names of the columns, which must be equal in all files; also counts the rows."""
        columns: list[str] = []
        for number, file in enumerate(self.files):
            table = self._open(number)
            names = list(table.schema_arrow.names if file.suffix == ".parquet" else table.schema.names)
            if self.image not in names:
                raise unknown("column of images", self.image, names)
            if columns and names != columns:
                raise UserError(f"{file} has the columns {', '.join(names)}, others have {', '.join(columns)}")
            columns = names
            groups = (
                [table.metadata.row_group(g).num_rows for g in range(table.num_row_groups)]
                if file.suffix == ".parquet"
                else [table.num_rows]
            )
            self._rows += [(number, g, row) for g, rows in enumerate(groups) for row in range(rows)]
        return columns

    def _names(self) -> list[str]:
        paths = [value.get("path") if isinstance(value, dict) else None for value in self._column(self.image, "path")]
        names = [str(path).replace("\\", "/") for path in paths if path]
        if len(set(names)) == len(self._rows):
            return names
        return [f"{i:08d}" for i in range(len(self._rows))]

    def _numbers(self, columns: list[str], names: list[str]) -> Labels | None:
        import pyarrow.types as kinds

        table = self._open(0)
        schema = table.schema_arrow if self.files[0].suffix == ".parquet" else table.schema
        wanted = [
            c for c in columns
            if kinds.is_integer(schema.field(c).type) or kinds.is_floating(schema.field(c).type)
            or kinds.is_boolean(schema.field(c).type)
        ]  # fmt: skip
        labels: Labels = {}
        for column in wanted:
            values = zip(names, self._column(column), strict=True)
            labels[column] = {name: float(value) for name, value in values if value is not None}
        return labels or None

    def _column(self, column: str, part: str | None = None) -> list[Any]:
        """A column's values in all files; of a column of images the `part` only, without reading the pictures."""
        values: list[Any] = []
        for number, file in enumerate(self.files):
            table = self._open(number)
            schema = table.schema_arrow if file.suffix == ".parquet" else table.schema
            kind = schema.field(column).type
            if part is not None and not (hasattr(kind, "get_field_index") and kind.get_field_index(part) >= 0):
                values += [None] * (table.metadata.num_rows if file.suffix == ".parquet" else table.num_rows)
            elif file.suffix == ".parquet":
                name = column if part is None else f"{column}.{part}"
                values += table.read(columns=[name]).column(column).to_pylist()
            else:
                column_values = table.column(column)
                if part is not None:
                    import pyarrow.compute as compute

                    values += [{part: value} for value in compute.struct_field(column_values, part).to_pylist()]
                else:
                    values += column_values.to_pylist()
        return values

    def _open(self, number: int) -> Any:
        """A parquet file or an Arrow table in memory-mapped form, opened once a process."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), ({}, OrderedDict()))
        opened: dict[int, Any] = self._handle[1][0]
        if number not in opened:
            opened[number] = _opened(self.files[number])
        return opened[number]

    def _cell(self, name: str, column: str) -> bytes | None:
        number, group, row = self._place[name]
        table = self._open(number)
        if self.files[number].suffix == ".parquet":
            assert self._handle is not None
            kept = self._handle[1][1]
            if (number, group) not in kept:
                wanted = [self.image, *([self._mask_column] if self._mask_column else [])]
                kept[number, group] = table.read_row_group(group, columns=wanted)
                while len(kept) > _GROUPS:
                    kept.popitem(last=False)
            table = kept[number, group]
        value = table.column(column)[row].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if value is not None and not isinstance(value, bytes):
            raise UserError(f"the column {column} holds {type(value).__name__}, no encoded images")
        return value

    def _bytes(self, name: str) -> bytes:
        with reading(f"{self.where}/{name}", "image"):
            data = self._cell(name, self.image)
            if data is None:
                raise UserError("its bytes are not in the table, only a path")
            return data

    def _stamp(self, name: str) -> str | None:
        number, group, row = self._place[name]
        stat = os.stat(self.files[number])
        return f"{self.files[number].name} {stat.st_size} {stat.st_mtime_ns} {group} {row}"

    def _mask(self, name: str) -> bytes | Path | None:
        return self._cell(name, self._mask_column) if self._mask_column else super()._mask(name)


def _files(path: str | Path) -> list[Path]:
    place = local(path)
    if place.is_dir():
        files = sorted(place.glob("*.parquet")) or _saved_to_disk(place) or sorted(place.glob("**/*.parquet"))
    elif place.is_file():
        files = [place]
    else:
        files = sorted(place.parent.glob(place.name)) if place.parent.is_dir() else []
    if not files:
        raise UserError(f"no parquet or Arrow files at {path}")
    return files


def _saved_to_disk(folder: Path) -> list[Path]:
    """The files of what `Dataset.save_to_disk` wrote, in its order."""
    state = folder / "state.json"
    if not state.is_file():
        return sorted(folder.glob("*.arrow"))
    with reading(state, "data set"):
        return [
            folder / str(entry["filename"]) for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        ]


def _opened(file: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise UserError("data=parquet needs the library pyarrow: pip install 'oodgan[parquet]'") from None
    with reading(file, "table"):
        if file.suffix == ".parquet":
            return parquet.ParquetFile(file, memory_map=True)
        mapped = pyarrow.memory_map(os.fspath(file))
        try:
            return ipc.open_stream(mapped).read_all()
        except pyarrow.ArrowInvalid:
            return ipc.open_file(mapped).read_all()
