"""One table for Markdown, CSV, HTML and the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_LOWER = (
    "loss", "fid", "kid", "lpips", "mse", "rmse", "error", "seconds", "distance", "leak", "memory", "mask_area",
)  # fmt: skip
_HIGHER = ("acc", "psnr", "ssim", "identity", "iou", "auc", "precision", "recall", "per_second", "kept", "score", "r2")


@dataclass(frozen=True)
class Table:
    """Cells as text, one row below the other.

    Attributes:
        header: a title for each column.
        rows: as many cells each.
        best: (row, column) of the cells that are marked.
        numbers: columns that are aligned to the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Collection[tuple[int, int]] = ()
    numbers: Collection[int] = ()

    def markdown(self) -> str:
        """The table in Markdown, marked cells in bold.

        >>> print(Table(["run", "loss"], [["a", "0.1"], ["b|c", "0.2"]], {(0, 1)}, {1}).markdown(), end="")
        | run | loss |
        |---|---:|
        | a | **0.1** |
        | b\\|c | 0.2 |
        """
        ruler = "".join("|---:" if c in self.numbers else "|---" for c in range(len(self.header)))
        lines = ["| " + " | ".join(map(_piped, self.header)) + " |", ruler + "|"]
        for r, row in enumerate(self.rows):
            cells = [f"**{_piped(cell)}**" if (r, c) in self.best else _piped(cell) for c, cell in enumerate(row)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The table as CSV, nothing marked."""
        text = io.StringIO()
        csv.writer(text).writerows([self.header, *self.rows])
        return text.getvalue()

    def turned(self) -> Table:
        """The same with a column for each row; the first column's cells are the titles."""
        header = [self.header[0], *(row[0] for row in self.rows)]
        rows = [[title, *(row[c] for row in self.rows)] for c, title in enumerate(self.header) if c]
        best = {(c - 1, r + 1) for r, c in self.best if c}
        return Table(header, rows, best, range(1, len(header)))

    def width(self) -> int:
        """Characters of a line in the terminal."""
        columns = zip(self.header, *self.rows, strict=True)
        return 1 + sum(3 + max(map(len, column)) for column in columns)

    def terminal(self, width: int | None = None) -> RichTable:
        """The table for rich's `Console.print`, marked cells in bold green.

        One that is wider than `width` characters and has more columns than rows is `turned`.
        """
        if width is not None and self.width() > width and len(self.header) > len(self.rows) + 1:
            return self.turned().terminal()
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable()
        for c, column in enumerate(self.header):
            drawn.add_column(Text(column), justify="right" if c in self.numbers else "left", overflow="fold")
        for r, row in enumerate(self.rows):
            drawn.add_row(*(Text(cell, "bold green" if (r, c) in self.best else "") for c, cell in enumerate(row)))
        return drawn


def _piped(cell: str) -> str:
    return cell.replace("|", "\\|")


def lower_is_better(metric: str) -> bool | None:
    """Whether a smaller value of a metric is better, by its name; None when the name does not tell.

    >>> lower_is_better("val/loss"), lower_is_better("smile/identity"), lower_is_better("steps")
    (True, False, None)
    """
    if metric == "objective":
        return True
    name = metric.lower()
    if any(word in name for word in _HIGHER):
        return False
    return True if any(word in name for word in _LOWER) else None
