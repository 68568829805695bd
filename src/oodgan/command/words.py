"""Arguments of `oodgan STAGE`: Hydra's options at any place, and values as typed in the shell.

In Hydra's grammar `1.10` is a number, `=` ends a value, and characters beyond ASCII are errors. Here names and paths
are plain text and JSON is accepted; values are quoted before they are passed to Hydra.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oodgan.command.keys import NEVER_NULL, OPEN, is_text, is_texts
from oodgan.command.usage import config_folders
from oodgan.errors import UserError, nearest

_FLAGS = ("--hydra-help", "--resolve", "--run", "-r", "-m", "--multirun")
_WITH_WORD = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_INFO = ("--info", "-i")
_KEYS = ("--ask",)
_INFO_KINDS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_SWEEPS = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|int|float|str|bool)\(.*\)", re.DOTALL)
_PLAIN_KEY = set(string.ascii_letters + string.digits + "_/.+$%*@?|-")
_ESCAPED = set("()[]{}:=,\\ \t")
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split Hydra's own options with their values, at any place, from the other words; after `--` there are no options.

    `--ask TEXT` is another form of `ask=TEXT`.

    >>> options(["seed=1", "--cfg", "job", "run=a", "-m"])
    (['--cfg', 'job', '-m'], ['seed=1', 'run=a'])

    Raises:
        UserError: an option that does not exist, or one whose value is missing.
    """
    hydra_options: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, given, value = word.partition("=")
        if word == "--":
            return hydra_options, rest + left
        if not word.startswith("-") or word == "-":
            rest.append(word)
        elif name in _KEYS:
            rest.append(f"{name[2:]}={value if given else _next(word, left)}")
        elif name in _WITH_WORD:
            hydra_options += [word] if given else [word, _next(word, left)]
        elif name in _INFO:
            kind = left.pop(0) if left and not given and left[0] in _INFO_KINDS else "all"
            hydra_options += [word] if given else [word, kind]
        elif name in _FLAGS:
            hydra_options.append(word)
        else:
            known = (*_FLAGS, *_WITH_WORD, *_INFO, *_KEYS, "--help", "--version", "--shell-completion")
            raise UserError(f"unknown option {word}{nearest(word, known)}; settings are written key=value")
    return hydra_options, rest


def _next(option: str, words: list[str]) -> str:
    if not words:
        raise UserError(f"{option} needs a word after it")
    return words.pop(0)


def key_of(word: str) -> str:
    """Return the dotted key of an override, without its package: `+a.b@c=1` -> `a.b`."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def typed_keys() -> set[str]:
    """The keys that the command line of the running stage sets."""
    from hydra.core.hydra_config import HydraConfig

    return {key_of(word) for word in (HydraConfig.get().overrides.task if HydraConfig.initialized() else [])}


def refuse_typed(stage: str, keys: Iterable[str], why: str) -> None:
    """Raise UserError if the command line of `stage` sets one of `keys`, or a key below one: they have no effect.

    Within a pipeline the same words may be meant for another stage, so nothing is refused there.
    """
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized() or HydraConfig.get().runtime.choices.get("stage") != stage:
        return
    for typed in sorted(typed_keys()):
        if any(typed == key or typed.startswith(f"{key}.") for key in keys):
            raise UserError(f"{typed} has no effect: {why}")


def translate(word: str, several: bool = False) -> str:
    """An override as typed -> in Hydra's grammar. `several`: commas separate the values of a sweep.

    >>> translate("run=1.10"), translate("seed=1"), translate("output=写真"), translate("resume=a/epoch=1.ckpt")
    ("run='1.10'", 'seed=1', "output='写真'", "resume='a/epoch=1.ckpt'")
    >>> translate('edits={"smile": 1.0}'), translate("edits.smile=1")
    ('++edits={smile: 1.0}', '++edits.smile=1')
    >>> translate("generator=2024"), translate("generator=tiny")
    ("generator='2024'", 'generator=tiny')

    Raises:
        UserError: with the word, and how it could be written.
    """
    head, equals, value = word.partition("=")
    key = key_of(word)
    if equals and (key in _groups() or key.startswith("hydra/")):
        return f"{head}=" + ",".join(map(_option, _split(value, ",")))
    if not equals or key.startswith("hydra"):
        return word
    text, texts = is_text(key), is_texts(key)
    parent = next((p for p in OPEN if key == p or key.startswith(f"{p}.")), None)
    if parent and (value.startswith("{") or key != parent) and head[0] not in "+~":
        head = f"++{head}"  # keys of the user's choice, which do not exist in the config
    word = f"{head}={value}"
    if not (text or texts) and _hydra_reads(word):
        return word
    if several and _SWEEPS.fullmatch(value):
        return _checked(word, head, value)
    try:
        parts = [part.strip() for part in _split(value, ",")] if several else [value]
        made = f"{head}=" + ",".join(_value(part, text, text or texts, key) for part in parts)
        return _checked(made, head, value)
    except ValueError as error:
        raise UserError(f"{key}={value} cannot be read: {error}{_advice(key, value)}") from None


@functools.lru_cache(maxsize=1)
def _groups() -> set[str]:
    return {folder.name for conf in config_folders() for folder in conf.glob("*/")}


def _option(text: str) -> str:
    """Quote the name of a group's option that Hydra would read as a number or boolean."""
    if not _hydra_reads(f"key={text}"):
        return quoted(text)
    value = _parser().parse_override(f"key={text}").value()
    return quoted(text) if isinstance(value, bool | int | float) else text


def quoted(text: str) -> str:
    """Quote text for Hydra: escapes quotes, and backslashes only directly before a quote."""
    tail = len(text) - len(text.rstrip("\\"))
    text = text + "\\" * tail
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


def spelled(value: Any) -> str:
    """Convert a Python value to Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(name))}: {spelled(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(spelled(item) for item in value) + "]"
    return repr(value) if isinstance(value, int | float) else quoted(str(value))


def readable(key: str) -> str:
    """Decode the key of a mapping to what was typed (see `_key`).

    >>> readable(_key("naïve")), _key("age+"), readable("smile")
    ('naïve', 'age+', 'smile')
    """
    return re.sub(r"%\+([0-9a-f]+)\+%", lambda match: chr(int(match[1], 16)), key)


def _key(text: str) -> str:
    """Encode the key of a mapping for Hydra, which has no quotes for keys: other characters are written as numbers."""
    kept = (c if c in _PLAIN_KEY else f"\\{c}" if c in _ESCAPED else f"%+{ord(c):x}+%" for c in text)
    return "".join(kept)


@functools.lru_cache(maxsize=1)
def _parser():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _hydra_reads(word: str) -> bool:
    from hydra.errors import HydraException

    try:
        _parser().parse_override(word)
    except HydraException:
        return False
    return True


def _checked(word: str, head: str, value: str) -> str:
    if not _hydra_reads(word):
        key = head.lstrip("+")
        raise UserError(f"{key}={value} cannot be read{_advice(key, value)}")
    return word


def _advice(key: str, value: str) -> str:
    if not key.isascii():
        return "; write names beyond ASCII inside of braces: 'key={name: value}'"
    if value[:1] in ("{", "[") and not _balanced(value):
        return "; the shell cuts words at spaces: quote the whole of it, for example 'edits={smile: 1.0}'"
    if value.startswith("{"):
        return "; a mapping is written {name: value, other: value}, for example 'edits={smile: 1.0}'"
    return "; put the value into quotes: " + f"{key}=\"'...'\""


def _balanced(text: str) -> bool:
    depths = [depth for _, depth in _scan(text)]
    return not depths or depths[-1] == 0


def _value(text: str, pure: bool, as_text: bool, key: str = "") -> str:
    """Convert one value. `pure`: brackets are part of a name; `as_text`: numbers are text too."""
    if _is_quoted(text) or (text.lower() == "null" and key not in NEVER_NULL):
        return text
    if text[:1] in ("[", "{") and not pure:
        return _container(text, as_text)
    return quoted(text) if as_text or not _hydra_reads(f"key={text}") else text


def _container(text: str, as_text: bool) -> str:
    closing = _CLOSING[text[0]]
    if not text.endswith(closing) or not _balanced(text):
        raise ValueError(f"a {closing} is missing")
    inner = [part.strip() for part in _split(text[1:-1], ",")]
    inner = [] if inner == [""] else inner
    if text[0] == "[":
        return "[" + ",".join(_value(part, False, as_text) for part in inner) + "]"
    pairs: dict[str, str] = {}
    for part in inner:
        name, *value = _split(part, ":", once=True)
        if not value or not name.strip():
            raise ValueError(f"{part!r} is not name: value")
        pairs[unquoted(name.strip())] = value[0].strip()
    # A file with its settings, {path: FILE, width: 96}: the numbers beside it are numbers.
    as_path = [name for name in pairs if as_text and ("path" not in pairs or name == "path")]
    return "{" + ", ".join(f"{_key(name)}: {_value(v, False, name in as_path)}" for name, v in pairs.items()) + "}"


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and _hydra_reads(f"key={text}")


def unquoted(text: str) -> str:
    """Return the text of a quoted or escaped value; the inverse of `quoted`."""
    if not _is_quoted(text):
        return re.sub(r"\\([()\[\]{}:=,\\ \t])", r"\1", text)
    return str(_parser().parse_override(f"key={text}").value())


def _split(text: str, separator: str, once: bool = False) -> Iterator[str]:
    """Split at separators outside of brackets and quotes."""
    start = 0
    for i, depth in _scan(text):
        if depth == 0 and text[i] == separator:
            yield text[start:i]
            start = i + 1
            if once:
                break
    yield text[start:]


def _scan(text: str) -> Iterator[tuple[int, int]]:
    """Yield (index, number of open brackets after it) of the characters outside of quotes and escapes."""
    closing: list[str] = []
    quote, escaped, before = "", False, ""
    for i, c in enumerate(text):
        if escaped:
            escaped = False
        elif c == "\\":
            escaped = True
        elif quote:
            quote = "" if c == quote else quote
        elif c in "'\"" and before in ("", *",:=([{"):  # elsewhere it is an apostrophe
            quote = c
        else:
            if c in _CLOSING:
                closing.append(_CLOSING[c])
            elif closing and c == closing[-1]:
                closing.pop()
            yield i, len(closing)
        before = before if c.isspace() else c
