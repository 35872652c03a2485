"""Lettered options: the prompt that lists them, and the option that an answer names.

An answer that names no option, or several, is unparsed: no option is guessed.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Sequence

from .score import normalise

LETTERS = string.ascii_uppercase
REQUEST = "Answer with the letter of the right option only."
LABEL = re.compile(r"\s*\(?([A-Z])[.):]\s*")
LETTER = re.compile(r"\W*([A-Z])\W*")
ALONE = re.compile(r"(?:(?i:option|choice|answer)\b)?[\W_]*([A-Za-z])[\W_]*")
# At the start of a line, before punctuation or alone: `B. dog`, `(B)`, `**B**: dog`. The article A has no punctuation.
LINE = re.compile(r"^[^\w\n]*([A-Z])[ \t]*(?:[.):\]*,]+(?=\s|$)|[-–—]+(?=\s)|$)(.*)", re.MULTILINE)
BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
SEVERAL = re.compile(r"(?<![\w'])[A-Z](?:\s*[,&/]\s*|\s+(?:and|or)\s+|\s*,\s*(?:and|or)\s+)[A-Z](?![\w'])")
OPEN = r"[*\"'(\[]*"
STATED = re.compile(  # the answer is B; A and I are also words
    r"\b(?i:answer|option|choice|it|that)(?i:'s|\s+(?:is|was|would be|should be|must be)|\s*[:=])\s*:?\s*"
    rf"(?i:(?:the\s+)?(?:option|choice|letter)\s+)?{OPEN}"
    r"(?:([B-HJ-Z])(?![\w'’-])|([AI])(?=[\W_]*$|\s*[.):\],;*\"']|\s+(?i:because|since|as)\b))",
)
NAMED = re.compile(rf"\b(?i:option|choice|letter|choose|pick|select|go with)\s+{OPEN}([A-Z])(?![\w'’-])")
DENIED = re.compile(r"\b(?i:not|never|neither|wrong|incorrect|false|unlikely)\b|n't\b")
OPENING = "so i think believe it its is that there are a an the correct right best final answer option"  # words


def unlabelled(options: Sequence[str]) -> tuple[str, ...]:
    """Options without labels such as `A. `, if each has the letter of its position; else unchanged."""
    found = [LABEL.match(option) for option in options]
    if all(label and label[1] == letter for label, letter in zip(found, LETTERS, strict=False)):
        return tuple(option[label.end() :].strip() for option, label in zip(options, found, strict=True) if label)
    return tuple(option.strip() for option in options)


def prompt(question: str, options: Sequence[str]) -> str:
    """The question, one line `A. …` for each option, and a request for the letter."""
    lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return "\n".join((question.strip(), *lines, REQUEST))


def letter_of(answer: str | int, options: Sequence[str]) -> str | None:
    """The letter of a right answer as data files have it: an index from 0, a letter, or the option's text."""
    if isinstance(answer, int):
        return LETTERS[answer] if 0 <= answer < len(options) else None
    if alone := LETTER.fullmatch(answer):
        return _one([alone[1]], options)
    return _same(answer, options) or _labelled(answer, options)


def chosen(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names, by letter or by text; None for no option or several."""
    text = unicodedata.normalize("NFKC", answer).strip()
    if alone := ALONE.fullmatch(text):
        return _one([alone[1].upper()], options)
    if same := _same(text, options):
        return same
    if stated := [first or second for first, second in STATED.findall(text)]:
        return None if SEVERAL.search(text) else _one(stated, options)
    if LINE.search(text):
        return _labelled(text, options)
    if named := [*NAMED.findall(text), *BRACKETED.findall(text)]:
        return None if DENIED.search(text) else _one(named, options)
    return _opened(text, options)


def _one(letters: Iterable[str], options: Sequence[str]) -> str | None:
    """The letter, if all are equal and it is the letter of an option."""
    found = set(letters)
    (letter,) = found if len(found) == 1 else ("",)
    return letter if letter and letter in LETTERS[: len(options)] else None


def _same(text: str, options: Sequence[str]) -> str | None:
    """The letter of the only option whose text equals this one after normalization."""
    label = LINE.match(text)
    before = "option " if label and label[1] == "A" else ""  # this A is no article, which normalise would drop
    wanted = normalise(before + text)
    pairs = zip(LETTERS, options, strict=False)
    found = [letter for letter, option in pairs if wanted and normalise(before + option) == wanted]
    return found[0] if len(found) == 1 else None


def _labelled(text: str, options: Sequence[str]) -> str | None:
    """The letter at the start of lines, unless the text after it is that of another option."""
    found = LINE.findall(text)
    letter = None if SEVERAL.search(text) else _one((letter for letter, _ in found), options)
    after = {_same(rest, options) for _, rest in found} - {None}
    denied = any(rest.lstrip().startswith(("is ", "was ")) and DENIED.search(rest) for _, rest in found)
    return letter if after <= {letter} and not denied else None


def _opened(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option whose text follows an opening such as `The answer is`."""
    words = normalise(text).split()
    while words and words[0] in OPENING.split():
        words = words[1:]
        if same := _same(" ".join(words), options):
            return same
    return None
