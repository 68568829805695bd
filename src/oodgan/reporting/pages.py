"""Self-contained HTML pages without external requests: tables, and images that a click enlarges."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from oodgan.reporting.tables import Table

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Figure:
    """A picture of a page: its `source` (see `embedded`, or a path beside the page), a caption, and a hint for it."""

    source: str
    caption: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, then whatever there is of text, a table, rows of small pictures, and wide charts."""

    heading: str = ""
    text: str = ""
    table: Table | None = None
    rows: Sequence[Sequence[Figure]] = field(default_factory=list)
    charts: Sequence[Figure] = field(default_factory=list)


def render(title: str, sections: Sequence[Section], text: str = "") -> str:
    """The page as text, with a `text` below its title."""
    from oodgan import __version__

    return _template().render(title=title, text=text, sections=sections, version=__version__)


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html.jinja")


def embedded(data: bytes, kind: str) -> str:
    """A picture's file content (`png`, `jpeg`, `svg+xml`) as a source that stands in the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(picture: Image.Image, **options: Any) -> str:
    """A picture as an embedded JPEG; `options` are Pillow's."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", **{"quality": 88, **options})
    return embedded(buffer.getvalue(), "jpeg")
