"""Pages that mkdocs makes itself: every config key, and the cards and answers that lie elsewhere in the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
SHIPPED = ROOT / "src" / "oodgan" / "weights" / "shipped"
RECIPES = "experiment"
BUILDS = "what is built; the keys beside it are its arguments"
FREE = "`+key=value` adds a key that is not listed"


@dataclass(frozen=True)
class Key:
    """One key of a config file: its dotted path as on the command line, its default as written, its comment."""

    path: str
    default: str
    comment: str


def options() -> dict[str, list[Path]]:
    """The config files by group, the root's under an empty name; recipes of experiments last."""
    files: dict[str, list[Path]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        files.setdefault(path.parent.relative_to(CONF).as_posix().removeprefix("."), []).append(path)
    return files


def head(path: Path) -> str:
    """The comment that a file begins with, without Hydra's own `@package`."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(line for line in lines if not line.startswith("@package"))


def keys(path: Path) -> list[Key]:
    """All keys of one config file, in order, without the `defaults` list."""
    text = path.read_text(encoding="utf-8")
    group = path.parent.relative_to(CONF).as_posix()
    bare = "@package _global_" in text or group == "."
    node = yaml.compose(text)
    return list(_walk(node, "" if bare else group.replace("/", ".") + ".", text.splitlines(), text)) if node else []


def _walk(node: yaml.MappingNode, prefix: str, lines: list[str], text: str) -> Iterator[Key]:
    for name, value in node.value:
        if name.start_mark.column == 0 and name.value in ("defaults", "stage"):
            continue
        path = prefix + name.value
        if name.value == "_target_":
            yield Key(path, value.value, BUILDS)
            continue
        block = not isinstance(value, yaml.ScalarNode) and not value.flow_style
        end = name.end_mark if block else value.end_mark
        comment_at = lines[end.line][end.column + block :]
        comment = _after(comment_at) or _above(lines, name)
        if isinstance(value, yaml.MappingNode) and block and not _entries(value):
            if comment:
                yield Key(path, "", comment)
            yield from _walk(value, path + ".", lines, text)
        else:
            yield Key(path, _written(value, text), comment)


def _entries(node: yaml.MappingNode) -> bool:
    """Whether a mapping is one value, a list of named entries: most of them have a line each."""
    lines = [isinstance(value, yaml.MappingNode) and value.flow_style for _, value in node.value]
    return 2 * sum(map(bool, lines)) > len(lines)


def _written(value: yaml.Node, text: str) -> str:
    if isinstance(value, yaml.MappingNode) and not value.flow_style:
        return "{" + ", ".join(f"{name.value}: …" for name, _ in value.value) + "}"
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        return "[" + ", ".join(_written(item, text) for item in value.value) + "]"
    return " ".join(text[value.start_mark.index : value.end_mark.index].split())


def _after(rest: str) -> str:
    return rest.strip().lstrip("# ") if rest.strip().startswith("#") else ""


def _above(lines: list[str], name: yaml.Node) -> str:
    indent, at, comments = " " * name.start_mark.column, name.start_mark.line - 1, []
    while at >= 0 and lines[at].startswith(indent + "#"):
        comments.insert(0, lines[at].strip("# "))
        at -= 1
    return " ".join(comments) if at >= 0 else ""  # what a file begins with is about the file


def explained() -> dict[Path, list[Key]]:
    """The keys of every file. What has no comment takes that of the same key, or of one so named, of its group; the
    keys of every `fit` mean the same in all groups."""
    by_file = {path: keys(path) for files in options().values() for path in files if path.parent.name != RECIPES}
    known: dict[str, str] = {}
    for key in (key for keys_of_file in by_file.values() for key in keys_of_file if key.comment):
        for name in _names(key.path):
            known.setdefault(name, key.comment)

    def comment(key: Key) -> str:
        return key.comment or next((known[name] for name in _names(key.path) if name in known), "")

    return {path: [Key(k.path, k.default, comment(k)) for k in keys_of_file] for path, keys_of_file in by_file.items()}


def _names(path: str) -> list[str]:
    """The names by which a key may be explained, the surest first."""
    group, last = path.partition(".")[0], path.rpartition(".")[2]
    return [path] + [f"{group}.*.{last}"] * (group != last) + [f"*.fit.*.{last}"] * (".fit." in path)


def config_page() -> str:
    """The Markdown of the page of every config key."""
    by_file = explained()
    parts = [
        "# Every config key\n",
        "Written from the files below `conf/` when these pages are built. A key is set by `key=value` on the command "
        "line, an option of a group by `group=option`; `oodgan STAGE --help` shows a stage's own, and "
        "`oodgan STAGE --cfg job` the whole configuration that a command would use. `???` must be given, `null` is "
        f"nothing, `${{...}}` is taken from another key or from the environment; {FREE}.\n",
    ]
    groups = options()
    for group in sorted(groups, key=lambda g: (g != "", g == RECIPES, g.startswith("hydra"), g)):
        parts.append(f"## {group or 'The root: groups and common keys'}\n")
        for path in groups[group]:
            parts += [f"### {group}={path.stem}\n" if group else "", _description(path)]
            if group == RECIPES:
                parts.append(f"```yaml\n{_without_head(path)}```\n")
            else:
                parts.append(_table(by_file[path]))
    return "\n".join(part for part in parts if part)


def _description(path: Path) -> str:
    lines = head(path)
    base = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    starts = [d for d in base.get("defaults", []) if isinstance(d, str) and d != "_self_"]
    more = f"\n\nStarts from `{starts[0]}`; what differs:" if starts else ""
    code = re.sub(r"(?m)^ *((?:srun )?oodgan \S+ .*=.*)$", r"\n    \1", lines)
    return code + more + "\n"


def _without_head(path: Path) -> str:
    return re.sub(r"\A(#.*\n)+", "", path.read_text(encoding="utf-8"))


def _table(table_keys: list[Key]) -> str:
    if not table_keys:
        return ""
    rows = [f"| `{k.path}` | {_code(k.default)} | {_cell(k.comment)} |" for k in table_keys]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows]) + "\n"


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if text else ""


def _site_links(path: Path) -> str:
    """A card's or experiment's text; its links to pictures, cards and experiments lead to their pages."""
    text = path.read_text(encoding="utf-8").replace("../../../../docs/cards/", "")
    text = re.sub(r"\]\((\.\./)+experiments/(\w+)/README\.md\)", r"](../experiments/\2.md)", text)
    return re.sub(r"\]\((\.\./)+src/oodgan/weights/shipped/(\w+)\.md\)", r"](../cards/\2.md)", text)


def elsewhere() -> dict[str, str]:
    """Pages of Markdown files that lie outside docs/: the weights' cards and the experiments' answers."""
    pages = {}
    for path in sorted(SHIPPED.glob("*.md")):
        pages[f"cards/{path.stem}.md"] = _site_links(path)
    for path in sorted((ROOT / "experiments").glob("*/README.md")):
        name = path.parent.name
        beside = [table for table in sorted(path.parent.glob("*.md")) if table != path]
        text = _site_links(path)
        for table in beside:
            pages[f"experiments/{name}_{table.stem}.md"] = _site_links(table)
            text = text.replace(f"]({table.name})", f"]({name}_{table.name})")
        pages[f"experiments/{name}.md"] = text
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pages["contributing.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return pages


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' hook: add the pages that are made here."""
    from mkdocs.structure.files import File

    for name, text in {"configs.md": config_page(), **elsewhere()}.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "experiments").glob("*/*.png")):
        files.append(File.generated(config, f"experiments/{path.name}", abs_src_path=str(path)))
    return files


KEYS = "<!-- keys -->\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs' hook: put the table of a stage's keys into its page."""
    if KEYS not in markdown:
        return markdown
    path = CONF / "stage" / f"{Path(page.file.src_uri).stem}.yaml"
    return markdown.replace(KEYS, _table(explained()[path]))
