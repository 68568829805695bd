"""One table in all its forms."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from oodgan.reporting.tables import Table, lower_is_better

TABLE = Table(["run", "val/loss"], [["a|b", "0.5"], ["[red]c", "0.25"]], best={(1, 1)}, numbers={1})


def test_markdown_marks_the_best_and_escapes_pipes() -> None:
    assert TABLE.markdown() == "| run | val/loss |\n|---|---:|\n| a\\|b | 0.5 |\n| [red]c | **0.25** |\n"


def test_csv_is_read_back_as_it_was() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [list(TABLE.header), *map(list, TABLE.rows)]


def test_the_terminal_shows_cells_as_text_and_not_as_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(TABLE.terminal())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]c" in text and "a|b" in text
    assert re.findall(r"\x1b\[1;32m *(\S+)\x1b", text) == ["0.25"]


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("lpips_alex_v0.1", True),
        ("fid_inception2015", True),
        ("mask_area", True),
        ("psnr_background_hat_cloth", False),
        ("identity_arcface_lossnet_1a2b3c4d", False),
        ("change_smile_probe_1a2b3c4d", None),
    ],
)
def test_names_tell_which_way_is_better(metric: str, lower: bool | None) -> None:
    assert lower_is_better(metric) is lower
