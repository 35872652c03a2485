"""Which option an answer names, and when it names none."""

from __future__ import annotations

import pytest

from echoingpixels.datasets.choices import REQUEST, chosen, letter_of, prompt, unlabelled

OPTIONS = ("A red car", "the dog", "a cat", "right")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("A", "A"),
        (" (B)\n", "B"),
        ("B.", "B"),
        ("**C**", "C"),
        ("Ｂ", "B"),
        ("B。", "B"),
        ("Option B", "B"),
        ("B. the dog", "B"),
        ("B - the dog", "B"),
        ("B) because it barks", "B"),
        ("A: A red car", "A"),
        ("B\nThe dog barks.", "B"),
        ("A\n\nBecause it is red.", "A"),
        ("The answer is B.", "B"),
        ("The correct option is **D** because of the arrow", "D"),
        ("Answer: (C) a cat", "C"),
        ("The answer is option C", "C"),
        ("the answer is A because", "A"),
        ("It is not A, it is C", "C"),
        ("Option A is wrong. The answer is C.", "C"),
        ("I'd go with C", "C"),
        ("Option A is correct", "A"),
        ("The man in (B) barks", "B"),
        ("A red car", "A"),
        ("The dog!", "B"),
        ("right", "D"),
        ("The answer is: the dog", "B"),
        ("It is a cat.", "C"),
    ],
)
def test_an_option_is_named_by_its_letter_or_its_text(answer: str, letter: str) -> None:
    assert chosen(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "...",
        "E",
        "A red bus drives by",
        "The answer is A blue bus",
        "A man says something",
        "I think so",
        "None of the above",
        "A and B",
        "A, B",
        "B or C",
        "The answer is B or C",
        "Both (B) and (C)",
        "A. red car\nB. the dog\nC. a cat",
        "B. a cat",
        "(B) is wrong",
        "Option B is wrong",
        "I would not choose B",
        "The answer is not B",
        "dog and cat",
        "Vitamin C",
        "U.S. flag",
        "cannot tell",
    ],
)
def test_an_answer_that_names_none_or_several_is_no_guess(answer: str) -> None:
    assert chosen(answer, OPTIONS) is None


def test_the_prompt_shows_the_options_one_a_line_and_asks_for_the_letter() -> None:
    assert prompt("Who? ", ("a", "b")) == f"Who?\nA. a\nB. b\n{REQUEST}"


def test_labels_are_taken_off_only_where_all_options_carry_their_own() -> None:
    assert unlabelled(["A. x", "B. y"]) == ("x", "y")
    assert unlabelled(["(A) x", "B) y"]) == ("x", "y")
    assert unlabelled(["A. Lincoln", "x "]) == ("A. Lincoln", "x")
    assert unlabelled(["B. x", "A. y"]) == ("B. x", "A. y")


@pytest.mark.parametrize("said", ["B", "B.", "(B)", "B. the dog", "the dog", "The Dog.", 1])
def test_a_right_answer_is_known_by_letter_text_or_index(said: str | int) -> None:
    assert letter_of(said, OPTIONS) == "B"


@pytest.mark.parametrize("said", ["E", "A bird", "A, B", 4, -1])
def test_a_right_answer_that_is_no_option_is_none(said: str | int) -> None:
    assert letter_of(said, OPTIONS) is None


def test_options_that_say_the_same_are_told_apart_by_letter_alone() -> None:
    assert chosen("x", ("x", "x.")) is None
    assert chosen("B", ("x", "x.")) == "B"
