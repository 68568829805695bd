"""A table as Markdown, CSV and terminal output."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from oodgan.reporting.tables import Table, lower_is_better

TABLE = Table(["run", "val/loss"], [["a|b", "0.5"], ["[red]c", "0.25"]], best={(1, 1)}, numbers={1})


def test_markdown_prints_the_best_in_bold_and_escapes_pipes() -> None:
    assert TABLE.markdown() == "| run | val/loss |\n|---|---:|\n| a\\|b | 0.5 |\n| [red]c | **0.25** |\n"


def test_csv_is_read_back_unchanged() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [list(TABLE.header), *map(list, TABLE.rows)]


def test_the_terminal_shows_cells_as_plain_text_instead_of_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(TABLE.terminal())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]c" in text and "a|b" in text
    assert re.findall(r"\x1b\[1;32m *(\S+)\x1b", text) == ["0.25"]


def test_a_table_too_wide_for_the_terminal_is_transposed() -> None:
    many = Table(["run", *(f"metric {i}" for i in range(30))], [["a", *"1" * 30], ["b", *"2" * 30]], best={(1, 7)})
    turned = many.turned()
    assert turned.header == ["run", "a", "b"] and turned.rows[6] == ["metric 6", "1", "2"] and turned.best == {(6, 2)}
    assert many.terminal(80).row_count == 30 and many.terminal(1000).row_count == many.terminal().row_count == 2
    console = Console(file=io.StringIO(), width=80)
    console.print(many.terminal(80))
    assert all(f"metric {i} " in console.file.getvalue() for i in range(30))  # type: ignore[attr-defined]
    assert turned.turned() == Table(many.header, many.rows, {(1, 7)}, range(1, 31))


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
def test_lower_is_better_is_derived_from_the_metric_name(metric: str, lower: bool | None) -> None:
    assert lower_is_better(metric) is lower
