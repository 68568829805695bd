"""The template of all pages: self-contained, with all names escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image

from oodgan.reporting.pages import Figure, Section, embedded, jpeg, render
from oodgan.reporting.tables import Table

HOSTILE = "<script>alert('x')</script>\" onload=\"alert(1)"


class ParsedPage(HTMLParser):
    """Collects a page's start tags with their attributes, and checks that tags are closed in order."""

    VOID = ("meta", "img", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_page_contains_its_sections_in_order() -> None:
    picture = Image.new("RGB", (8, 8), "red")
    table = Table(["method", "lpips"], [["ours", "0.02"], ["plain", "0.31"]], best={(0, 1)}, numbers={1})
    sections = [
        Section("Numbers", "Means.", table),
        Section("Pictures", rows=[[Figure(jpeg(picture), "photo", "first"), Figure("", "lost")]]),
        Section("Curves", charts=[Figure(embedded(b"<svg/>", "svg+xml"), hint="loss")]),
    ]
    page = ParsedPage(render("A title", sections, "A caption."))
    assert page.open == []
    assert [len(page.all(tag)) for tag in ("h1", "h2", "table", "th", "td", "figure")] == [1, 3, 1, 2, 4, 3]
    assert [cell.get("class") for cell in page.all("td")] == [None, "number best", None, "number"]
    sources = [image["src"] or "" for image in page.all("img") if "src" in image]
    assert Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))).size == (8, 8)
    assert sources[1].startswith("data:image/svg+xml;base64,") and len(sources) == 2


def test_names_are_escaped_everywhere() -> None:
    table = Table([HOSTILE], [[HOSTILE]])
    figure = Figure("data:,", HOSTILE, HOSTILE)
    plain = ParsedPage(render("t", [Section("h", "t", Table(["h"], [["c"]]), [[Figure("data:,", "c", "h")]])], "t"))
    page = ParsedPage(render(HOSTILE, [Section(HOSTILE, HOSTILE, table, [[figure]], [figure])], HOSTILE))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert page.all("figure")[0]["title"] == HOSTILE


def test_pages_load_nothing_from_other_servers() -> None:
    text = render("t", [Section(rows=[[Figure(jpeg(Image.new("L", (4, 4))))]])])
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", text)
