"""The pages of docs/: complete, built without warnings or external resources; their commands compose."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from oodgan import cli, launch
from oodgan.command import checks
from oodgan.command import words as typed

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "experiments").glob("*/README.md")),
]
STANDS_FOR = {"generator=mine": "generator=tiny"}  # a config that the reader has written


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module  # dataclasses look up their module here
    spec.loader.exec_module(module)
    return module


hooks = _hooks()


def commands(text: str) -> list[list[str]]:
    """Returns the command lines of a page's shell blocks, as words, without comments."""
    result = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S):
        if language not in ("", "sh", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                result.append(words)
    return result


@pytest.mark.parametrize("path", list(hooks.explained()), ids=lambda p: p.relative_to(hooks.CONF).as_posix())
def test_every_config_key_has_a_comment(path: Path) -> None:
    missing = [key.path for key in hooks.explained()[path] if not key.comment]
    assert not missing, f"write a comment behind {', '.join(missing)} in {path.relative_to(REPOSITORY)}"


def test_keys_comments_and_defaults_are_read_from_the_file() -> None:
    result = {key.path: key for key in hooks.keys(hooks.CONF / "stage" / "edit.yaml")}
    assert result["quality"] == hooks.Key("quality", "95", "of jpg and webp") and "stage" not in result
    nested = {key.path: key for key in hooks.keys(hooks.CONF / "inverter" / "light.yaml")}
    assert nested["inverter.refine.size"].default == "256" and nested["inverter.refine.losses"].default[0] == "{"
    assert any(key.path == "pipeline.edits" for key in hooks.keys(hooks.CONF / "stage" / "pipeline.yaml"))


def test_the_config_page_lists_every_key_and_every_option_of_every_group() -> None:
    page = hooks.config_page()
    for group, files in hooks.options().items():
        for path in files if group else []:
            assert f"### {group}={path.stem}\n" in page
    for key in (key for result in hooks.explained().values() for key in result):
        assert f"| `{key.path}` |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_documented_commands_exist_and_accept_their_arguments(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "examples" / "own_parts")  # the docs use its classes
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "sh":
            assert (REPOSITORY / words[1]).is_file(), words
        elif words[0].endswith("oodgan") and not words[1].startswith("-") and "--help" not in words:
            _composes(words[1], words[2:])


def _one_job(words: list[str]) -> list[str]:
    """Returns the words of the first job of a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep

    result = []
    for override in OverridesParser.create().parse_overrides(words):
        swept = override.value() if override.is_sweep_override() else None
        first = swept.start if isinstance(swept, IntervalSweep) else None
        first = next(iter(override.sweep_string_iterator())) if swept is not None and first is None else first
        result.append(override.input_line if first is None else f"{override.get_key_element()}={first}")
    return result


def _composes(stage: str, words: list[str]) -> None:
    assert stage in cli.stage_names(), f"no stage {stage}"
    options, rest = typed.options(words)
    rest = [STANDS_FOR.get(word, word) for word in cli.positional(stage, rest)]
    launch.check_reads(stage, rest)
    rest = [typed.translate(word, several="-m" in options) for word in rest if typed.key_of(word) != "config"]
    checks.checked(launch.compose(stage, _one_job(rest) if "-m" in options else rest), launch.config_folder())


@pytest.mark.parametrize("name", ["probes_ffhq", "probes_ffhq_seek"])
def test_the_probes_card_gives_the_quality_stored_in_the_file(name: str) -> None:
    from oodgan.directions.probes import Probes

    file = hooks.SHIPPED / f"{name}.safetensors"
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    written = {name: float(r) for name, r in re.findall(r"^\| (\w+) \| (0\.\d+) \|", card, flags=re.M)}
    assert written == pytest.approx(dict(Probes.load(file).quality))


def test_every_shipped_weight_file_has_a_card() -> None:
    assert {p.stem for p in hooks.SHIPPED.glob("*.safetensors")} == {p.stem for p in hooks.SHIPPED.glob("*.md")}


def test_all_pictures_are_used_and_their_total_size_is_limited() -> None:
    pictures = list((DOCS / "pictures").iterdir())
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert [p.name for p in pictures if f"pictures/{p.name}" not in text] == []
    assert 100_000 < sum(p.stat().st_size for p in pictures) < 1_500_000


class _Loaded(HTMLParser):
    """Addresses that a page loads without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        kept = [given.get("src"), given.get("href") if tag == "link" else None]
        self.addresses += [address for address in kept if address]


def test_pages_build_without_warnings_and_load_no_external_resources(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"configs.html", "api.html", "import.html", "export.html", "encoder_light.html", "embedded.html"} <= {
        p.name for p in pages
    }
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert [a for a in loaded.addresses if a.startswith(("http:", "https:", "//"))] == [], page.name
    styles = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "site").rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", styles)


def test_every_stage_has_a_page() -> None:
    pages = {path.stem for path in (DOCS / "stages").iterdir()} | {"serve", "export"}  # docs/web.md, docs/export.md
    assert pages == set(cli.stage_names())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md"])
def test_links_to_files_resolve(page: str) -> None:
    path = REPOSITORY / page
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_files_named_in_contributing_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|conf|tests|docs)/[\w./-]*)`", text)
    assert len(named) > 10 and [name for name in named if not (REPOSITORY / name).exists()] == []


def test_the_package_table_has_the_order_of_the_import_layers() -> None:
    table = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| package | contains |")[2]
    rows = re.findall(r"^\| (`.*?) \|", table.partition("## ")[0], flags=re.M)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    config = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").partition("layers = [")[2].partition("]")[0]
    layers = [re.findall(r"\w+", layer) for layer in re.findall(r'"(.*?)"', config)]
    layers = [[name for name in layer if not name.startswith("_")] for layer in layers]
    height = {name: i for i, layer in enumerate(layers) for name in layer}
    assert set(listed) == set(height)
    assert [height[name] for name in listed] == sorted(height.values())
