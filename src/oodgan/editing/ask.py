"""Edits from a short English text: `a slight smile and glasses` -> {"smile": 0.5, "eyeglasses": 1.0}.

A table of words, no language model: a text with a word that is not in the table is refused.
"""

from __future__ import annotations

import difflib
import re

from oodgan.errors import UserError

ATTRIBUTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "smile": (("smile", "smiles", "smiling", "happy", "happier"), ("serious", "unsmiling")),
    "eyeglasses": (("glasses", "eyeglasses", "spectacles"), ()),
    "beard": (("beard", "bearded"), ("beardless", "clean-shaven", "clean shaven", "shaved")),
    "age": (("old", "older", "aged", "age"), ("young", "younger")),
    "gender": (("masculine", "male"), ("feminine", "female")),
    "mouth_open": (("open mouth", "mouth open", "opened mouth"), ("closed mouth", "mouth closed")),
    "narrow_eyes": (("narrow eyes", "narrower eyes", "eyes narrow"), ("wide eyes", "wide open eyes", "wider eyes")),
    "bushy_eyebrows": (
        ("bushy eyebrows", "thick eyebrows", "bushier eyebrows", "thicker eyebrows"),
        ("thin eyebrows", "thinner eyebrows"),
    ),
    "blond": (("blond", "blonde", "blonder", "fair hair", "light hair"), ("dark hair", "darker hair")),
    "bangs": (("bangs", "fringe"), ()),
    "bald": (("bald", "balding"), ()),
}
"""The words of each attribute: those that ask for more of it, and those that ask for less."""

DEGREES = {
    0.5: ("slight", "slightly", "little", "bit", "subtle", "faint", "gentle", "light", "lightly", "small", "weak"),
    1.5: ("strong", "strongly", "big", "broad", "wide", "full", "heavy", "very", "much", "lot", "clearly"),
}
"""Strengths of the words of degree; without one, the strength is 1."""

NEGATIONS = ("no", "not", "less", "without", "remove", "removing", "take off", "taking off", "lose")
CARRYING = ("without", "remove", "removing", "take off", "taking off", "lose")
"""Negations that could apply to what follows after a comma or `and`, too."""

ADDITIONS = ("add", "adding", "give", "put on", "wear", "wearing", "more")
SEPARATORS = (",", ";", ".", "&", "and", "but", "with", "plus")
FILLERS = (
    "a", "an", "the", "some", "of", "to", "in", "on", "please", "make", "making", "him", "her", "them", "it", "me",
    "my", "his", "their", "face", "person", "photo", "hair", "look", "looks", "looking", "is", "be", "have", "has",
    "having", "he", "she", "they", "should", "or", "also", "too",
)  # fmt: skip

_MEANINGS: dict[str, tuple[str, float]] = {
    phrase: (name, sign)
    for name, (more, less) in ATTRIBUTES.items()
    for phrases, sign in ((more, 1.0), (less, -1.0))
    for phrase in phrases
} | {name.replace("_", " "): (name, 1.0) for name in ATTRIBUTES}
_DEGREE = {word: strength for strength, words in DEGREES.items() for word in words}
_WORDS = {*_MEANINGS, *_DEGREE, *NEGATIONS, *ADDITIONS, *SEPARATORS, *FILLERS}
_LONGEST = max(len(phrase.split()) for phrase in _WORDS)


def parse(text: str) -> dict[str, float]:
    """Return {attribute: strength} of a text.

    Commas, `and`, `but` and `with` separate the parts of the text. A word of degree (0.5 or 1.5) and a negation apply
    to the attributes of their own part.

    >>> parse("a slight smile and glasses")
    {'smile': 0.5, 'eyeglasses': 1.0}
    >>> parse("without glasses but much older")
    {'eyeglasses': -1.0, 'age': 1.5}

    Raises:
        UserError: unknown words, all of them named; no attribute, one that is named twice, a word of degree or a
            negation without an attribute; a text in which it is unclear to what a negation applies.
    """
    phrases = _phrases(text)
    if strange := [phrase for phrase in phrases if phrase not in _WORDS]:
        raise UserError(_unknown(text, strange))
    edits: dict[str, float] = {}
    carried = ""
    for separator, part in _parts(phrases):
        signed = any(word in NEGATIONS or word in ADDITIONS for word in part)
        attributes = [_MEANINGS[word] for word in part if word in _MEANINGS]
        if carried and attributes and not signed and separator not in ("but", "with"):
            raise UserError(
                f"ask={text!r}: does {carried!r} apply to {attributes[0][0]}, too? Write 'no' or 'with' before it"
            )
        factor = _factor(text, part, bool(attributes))
        for name, sign in attributes:
            if name in edits:
                raise UserError(f"ask={text!r} names {name} twice")
            edits[name] = sign * factor
        carried = next((word for word in part if word in CARRYING), "" if attributes else carried)
    if not edits:
        raise UserError(f"ask={text!r} names no attribute; for example --ask 'a slight smile and glasses'. {_known()}")
    return edits


def _factor(text: str, part: list[str], described: bool) -> float:
    """Return the strength of a part's words of degree and negations. `described`: the part names an attribute."""
    degrees = [word for word in part if word in _DEGREE]
    negations = [word for word in part if word in NEGATIONS]
    if not described and (degrees or negations):
        raise UserError(f"ask={text!r}: {(degrees + negations)[0]!r} of what? It belongs beside an attribute")
    return min((_DEGREE[word] for word in degrees), default=1.0) * (-1) ** len(negations)


def _phrases(text: str) -> list[str]:
    """Split a text into phrases of the table, the longest first, and words that are not in it."""
    words = re.findall(r"[^\s,;.!?]+|[,;.]", text.lower())
    phrases: list[str] = []
    while words:
        fits = (n for n in range(min(_LONGEST, len(words)), 1, -1) if " ".join(words[:n]) in _WORDS)
        length = next(fits, 1)
        phrases.append(" ".join(words[:length]))
        del words[:length]
    return phrases


def _parts(phrases: list[str]) -> list[tuple[str, list[str]]]:
    """Return the parts between separators, each with the last separator before it."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for phrase in phrases:
        if phrase not in SEPARATORS:
            parts[-1][1].append(phrase)
        elif parts[-1][1]:
            parts.append((phrase, []))
        else:
            parts[-1] = (phrase, [])
    return parts


def _unknown(text: str, strange: list[str]) -> str:
    named = ", ".join(repr(word) + _close_word(word) for word in dict.fromkeys(strange))
    return f"ask={text!r}: unknown {'words' if len(set(strange)) > 1 else 'word'} {named}. {_known()}"


def _close_word(word: str) -> str:
    close = difflib.get_close_matches(word, _MEANINGS, n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _known() -> str:
    return "Known: " + ", ".join(f"{more[0]} ({name})" if more[0] != name else name
                                 for name, (more, _) in ATTRIBUTES.items())  # fmt: skip
