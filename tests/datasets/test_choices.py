"""Which option an answer names, and when it names none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.datasets.choices import LETTERS, REQUEST, chosen, letter_of, prompt, unlabelled

OPTIONS = ("A red car", "the dog", "a cat", "right")
properties = settings(deadline=None, max_examples=100)

WORDS = ("bell", "blue drum", "dog in the rain", "two", "left", "cello", "nobody", "top right")
CHOICES = st.lists(st.sampled_from(WORDS), min_size=2, max_size=6, unique=True)
BY_LETTER = (
    "{0}", "{0}.", " ({0})\n", "**{0}**", "Option {0}", "{0}. {1}", "{0}) {1}", "{0}: {1}", "{0} - {1}", "({0}) {1}!",
    "The answer is {0}.", "Answer: ({0}) {1}", "The correct option is **{0}** because {1} fits", "I choose {0}",
    "{0}\n\nBecause it is {1}.",
)  # fmt: skip
BY_TEXT = ("{1}", "{1}.", "The answer is: {1}", "It is {1}.", "  The {1}!", "I think the correct answer is {1}")
SEVERAL = ("{0} and {1}", "{0}, {1}", "{0} or {1}", "The answer is {0} or {1}", "Both ({0}) and ({1})", "{0}.\n{1}.")
DENIED = (
    "({0}) is wrong",
    "Option {0} is wrong",
    "I would not choose {0}",
    "The answer is not {0}",
    "{0} is not right",
)


@properties
@given(CHOICES, st.sampled_from(BY_LETTER + BY_TEXT), st.data())
def test_an_option_is_named_by_its_letter_or_its_text(options: list[str], form: str, data: st.DataObject) -> None:
    letter, text = data.draw(st.sampled_from(list(zip(LETTERS, options, strict=False))))
    assert chosen(form.format(letter, text), options) == letter


@properties
@given(CHOICES, st.sampled_from(SEVERAL), st.data())
def test_two_letters_are_no_answer(options: list[str], form: str, data: st.DataObject) -> None:
    first, second = data.draw(st.permutations(LETTERS[: len(options)]))[:2]
    assert chosen(form.format(first, second), options) is None


@properties
@given(CHOICES, st.sampled_from(DENIED), st.data())
def test_a_denied_letter_is_no_answer(options: list[str], form: str, data: st.DataObject) -> None:
    assert chosen(form.format(data.draw(st.sampled_from(LETTERS[: len(options)]))), options) is None


@properties
@given(CHOICES, st.sampled_from(BY_LETTER[:-1]), st.data())
def test_the_letter_or_text_of_no_option_is_no_answer(options: list[str], form: str, data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from([one for one in LETTERS[len(options) :] if one != "I"]))
    assert chosen(form.format(letter, "something else"), options) is None


@properties
@given(CHOICES, st.data())
def test_a_letter_with_the_text_of_another_option_is_no_answer(options: list[str], data: st.DataObject) -> None:
    own, other = data.draw(st.permutations(range(len(options))))[:2]
    for answer in (f"{LETTERS[own]}. {options[other]}", f"{LETTERS[own]} - {options[other]}"):
        assert chosen(answer, options) is None and letter_of(answer, options) is None


@properties
@given(st.text("ABCabc .,:()*\nisorthe", max_size=30), CHOICES)
def test_any_answer_names_one_option_or_none(answer: str, options: list[str]) -> None:
    assert chosen(answer, options) in (None, *LETTERS[: len(options)])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Ｂ", "B"),
        ("B。", "B"),
        ("B) because it barks", "B"),
        ("B\nThe dog barks.", "B"),
        ("A\n\nBecause it is red.", "A"),
        ("The correct option is **D** because of the arrow", "D"),
        ("the answer is A because", "A"),
        ("It is not A, it is C", "C"),
        ("Option A is wrong. The answer is C.", "C"),
        ("I'd go with C", "C"),
        ("Option A is correct", "A"),
        ("The man in (B) barks", "B"),
    ],
)
def test_examples_that_name_an_option(answer: str, letter: str) -> None:
    assert chosen(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A red bus drives by",
        "The answer is A blue bus",
        "A man says something",
        "I think so",
        "None of the above",
        "A. red car\nB. the dog\nC. a cat",
        "dog and cat",
        "Vitamin C",
        "U.S. flag",
        "cannot tell",
    ],
)
def test_examples_that_name_none_or_several(answer: str) -> None:
    assert chosen(answer, OPTIONS) is None


def test_the_prompt_shows_the_options_one_a_line_and_asks_for_the_letter() -> None:
    assert prompt("Who? ", ("a", "b")) == f"Who?\nA. a\nB. b\n{REQUEST}"


def test_labels_are_removed_only_if_each_option_has_its_own() -> None:
    assert unlabelled(["A. x", "B. y"]) == ("x", "y")
    assert unlabelled(["(A) x", "B) y"]) == ("x", "y")
    assert unlabelled(["A. Lincoln", "x "]) == ("A. Lincoln", "x")
    assert unlabelled(["B. x", "A. y"]) == ("B. x", "A. y")


@properties
@given(CHOICES, st.sampled_from(["{0}. {1}", "({0}) {1}", "{0}) {1}", "{0}: {1}"]), st.data())
def test_a_labelled_list_has_the_same_options_and_answers(options: list[str], form: str, data: st.DataObject) -> None:
    labelled = [form.format(letter, text) for letter, text in zip(LETTERS, options, strict=False)]
    assert unlabelled(labelled) == tuple(options) == unlabelled(options)
    place = data.draw(st.integers(0, len(options) - 1))
    letter, text = LETTERS[place], options[place]
    answers = (place, letter, f"{letter}.", f"({letter})", labelled[place], text, f"{text.title()}.")
    assert {letter_of(answer, options) for answer in answers} == {letter}


@properties
@given(CHOICES)
def test_a_right_answer_that_is_no_option_is_none(options: list[str]) -> None:
    for answer in (len(options), -1, LETTERS[len(options)], "A, B", "A bird", ""):
        assert letter_of(answer, options) is None


def test_options_with_equal_texts_are_named_by_letter_only() -> None:
    assert chosen("x", ("x", "x.")) is None
    assert chosen("B", ("x", "x.")) == "B"
