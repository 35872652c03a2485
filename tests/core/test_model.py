"""The library's calls from a file to an answer, and the cost that an answer reports."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tools.quotas  # noqa: F401  the ablations are reducers too
from echoingpixels import encoded_clip, media
from echoingpixels.backbones.sizes import layer_flops
from echoingpixels.encoded_clip import CACHED
from echoingpixels.errors import MediaError, ModelError, OptionError
from echoingpixels.features.cache import FeatureCache
from echoingpixels.from_pretrained import load
from echoingpixels.generation.answer import Answer
from echoingpixels.inputs.prepare import extent_of, prepare_media, span_of
from echoingpixels.media import read_clip
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, MediaOptions
from echoingpixels.reducer_names import REDUCER_NAMES, SIEVE_DEFAULT, UNSIEVED
from echoingpixels.report import STAGES, peak_memory, reset_peak
from tests.support import tinymodel

DEMO = Path(__file__).parents[2] / "models/echoingpixels/assets/demo.mp4"
QUESTION = "Which object appears first?"
SHORT = GenerateOptions(max_new_tokens=6)


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the encoders."""
    calls, encode = [], encoded_clip.encode

    def spy(*arguments: Any) -> Any:
        calls.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(encoded_clip, "encode", spy)
    return calls


def same(a: Answer, b: Answer) -> bool:
    return (a.text, a.token_ids, a.finish_reason, a.report.tokens) == (
        b.text,
        b.token_ids,
        b.finish_reason,
        b.report.tokens,
    )


@pytest.mark.parametrize("reducer", REDUCER_NAMES)
def test_the_five_calls_give_the_answer_of_ask(model: EchoingPixels, reducer: str) -> None:
    clip = tinymodel.clip()
    asked = model.ask(clip, QUESTION, reducer=reducer, keep=0.2, generate=SHORT)
    stream = tinymodel.asked(model, clip, QUESTION)
    selection = model.select(stream, reducer=reducer, keep=0.2)
    staged = model.generate(stream.take(selection), SHORT)
    assert same(asked, staged)


def test_the_control_keeps_the_random_choice_of_the_sieve_s_tokens(model: EchoingPixels) -> None:
    stream = tinymodel.asked(model, tinymodel.clip(), QUESTION)
    sieved, control, drawn = (model.select(stream, reducer, 0.2) for reducer in ("cs2", "cs2-random", "random"))
    assert torch.equal(control.keep, drawn.keep) and not torch.equal(control.keep, sieved.keep)
    assert control.fused is not None and sieved.fused is not None and torch.equal(control.fused, sieved.fused)


def test_several_questions_encode_the_clip_once(model: EchoingPixels, encoded: list[Any]) -> None:
    clip = tinymodel.clip()
    questions = [QUESTION, "Is the bell heard?", "Who?"]
    encoded_once = model.encode(clip)
    together = model.answer([(encoded_once, question) for question in questions], generate=SHORT)
    assert len(encoded) == 1
    alone = [model.ask(clip, question, generate=SHORT) for question in questions]
    assert len(encoded) == 4
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


def test_streamed_pieces_join_to_the_answer(model: EchoingPixels) -> None:
    chunks = list(model.encode(tinymodel.clip()).stream(QUESTION, AskOptions(generate=SHORT)))
    answer = chunks[-1].answer
    assert answer is not None and all(chunk.answer is None for chunk in chunks[:-1])
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert same(answer, model.ask(tinymodel.clip(), QUESTION, generate=SHORT))


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2, 0.01])
def test_the_report_counts_the_budget(model: EchoingPixels, keep: float) -> None:
    answer = model.ask(tinymodel.clip(), QUESTION, keep=keep, generate=SHORT)
    tokens, span = answer.report.tokens, span_of(extent_of(tinymodel.clip().pieces()), tinymodel.RESOLUTION)
    assert tokens.video.before + tokens.audio.before == span.tokens
    assert tokens.audio.before == span.audio_tokens
    k = max(1, math.ceil(span.tokens * keep))
    assert tokens.video.after + tokens.audio.after == k
    assert tokens.kept_ratio == k / span.tokens
    assert tokens.text.before == tokens.text.after > 0
    assert len(answer.kept_times.all) == k
    assert all(0 <= time <= 3 for time in answer.kept_times.all)


def test_the_report_has_every_key_and_goes_through_json(model: EchoingPixels) -> None:
    answer = model.encode_pieces(tinymodel.clip().pieces(), {"decode": 0.25}).ask(QUESTION, AskOptions(generate=SHORT))
    plain = json.loads(json.dumps(answer.report.as_dict()))
    costs = {"tokens", "time_s", "question_s", "memory_bytes", "flops", "speedup", "encoded"}
    assert set(plain) == costs | {"tokens_per_s", "first_layer", "last_layer"}
    assert set(plain["tokens"]) == {"video", "audio", "image", "text", "kept_ratio"}
    assert tuple(plain["time_s"]) == (*STAGES, "first_token", "total")
    assert set(plain["memory_bytes"]) == {"weights", "peak"}
    assert set(plain["flops"]) == {"full", "reduced"}
    later = len(answer.token_ids) - 1
    assert plain["tokens_per_s"] == later / plain["time_s"]["generate"]
    assert plain["speedup"]["measured"] is None
    assert plain["speedup"]["estimated"] == plain["flops"]["full"] / plain["flops"]["reduced"]


def test_times_add_up(model: EchoingPixels) -> None:
    clip = model.encode_pieces(tinymodel.clip().pieces(), {"decode": 0.25})
    spent = clip.ask(QUESTION, AskOptions(generate=SHORT)).report.time_s
    assert spent.decode == pytest.approx(0.25, abs=0.01)
    first = sum(getattr(spent, name) for name in ("decode", "prepare", "encode", "select", "prefill"))
    assert spent.generate is not None and spent.first_token == pytest.approx(first)
    assert spent.total == pytest.approx(first + spent.generate)
    assert all(seconds is not None and seconds >= 0 for seconds in spent.as_dict().values())


def test_weights_are_counted_as_stored(model: EchoingPixels) -> None:
    assert model.sieve is not None
    weights = sum(p.numel() for p in [*model.backbone.parameters(), *model.sieve.parameters()])
    assert model.weight_bytes() == 4 * weights


def test_compare_makes_both_runs_and_measures_them(model: EchoingPixels, encoded: list[Any]) -> None:
    options = AskOptions(keep=0.1, generate=SHORT)
    reduced, full = model.encode(tinymodel.clip()).compare(QUESTION, options)
    assert len(encoded) == 1
    assert same(reduced, model.ask(tinymodel.clip(), QUESTION, keep=0.1, generate=SHORT))
    assert same(full, model.ask(tinymodel.clip(), QUESTION, reducer="full", generate=SHORT))
    totals = [answer.report.time_s.total for answer in (full, reduced)]
    assert reduced.report.speedup.measured == totals[0] / totals[1]
    assert full.report.speedup.measured is None
    assert full.report.tokens.kept_ratio == 1


def test_keeping_everything_by_full_is_the_plain_model(model: EchoingPixels) -> None:
    clip = tinymodel.clip()
    stream = tinymodel.asked(model, clip, QUESTION)
    plain = model.generate(stream, SHORT)
    assert same(plain, model.ask(clip, QUESTION, reducer="full", keep=0.1, generate=SHORT))


def test_answers_repeat(model: EchoingPixels) -> None:
    first, second = (model.ask(tinymodel.clip(), QUESTION, generate=SHORT) for _ in range(2))
    assert same(first, second) and first.kept_times == second.kept_times


@pytest.mark.parametrize("kind", ["sound", "picture", "still"])
def test_sound_alone_a_silent_picture_and_a_still_are_answered_too(model: EchoingPixels, kind: str) -> None:
    whole = tinymodel.clip(2.0)
    picture = replace(whole, audio=None)
    image = replace(whole.source, kind="image")
    clips: dict[str, Clip] = {
        "sound": replace(whole, frames=whole.frames[:0], times=whole.times[:0]),
        "picture": picture,
        "still": replace(picture, frames=whole.frames[:1], times=whole.times[:1], source=image),
    }
    tokens = model.ask(clips[kind], QUESTION, generate=SHORT).report.tokens
    assert (tokens.audio.before > 0, tokens.video.before > 0, tokens.image.before > 0) == (
        kind == "sound",
        kind == "picture",
        kind == "still",
    )


def test_the_outline_of_a_clip_equals_its_prepared_media() -> None:
    for seconds, sound in ((3.0, True), (2.5, True), (1.0, False)):
        clip = tinymodel.clip(seconds, sound)
        media = prepare_media(clip, tinymodel.RESOLUTION)
        assert media.span == span_of(extent_of(clip.pieces()), tinymodel.RESOLUTION)
        assert media.grid == (len(media.span.times), 2 * media.span.rows, 2 * media.span.columns)


@pytest.mark.parametrize("name", ["film.mp4", Path("film.mp4")])
def test_a_file_that_does_not_exist_is_a_media_error(model: EchoingPixels, name: Any) -> None:
    with pytest.raises(MediaError, match=r"film\.mp4 cannot be read: no such file"):
        model.ask(name, "Who?")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    calls: list[str] = []
    reader = media.stream_clip

    def spy(path: Path, options: MediaOptions, **more: Any) -> Any:
        calls.append(path.name)
        return reader(path, options, **more)

    monkeypatch.setattr(media, "stream_clip", spy, raising=False)
    return calls


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_asked_in_one_line_and_read_once(tiny_model: EchoingPixels, read: list[str], kind: Any) -> None:
    first, second = (tiny_model.ask(kind(DEMO), QUESTION, keep=0.2) for _ in range(2))
    assert read == ["demo.mp4"]
    assert same(first, second) and same(first, tiny_model.ask(read_clip(DEMO), QUESTION, keep=0.2))
    assert first.report.time_s.encode is not None and second.report.time_s.encode is None
    assert CACHED in second.notes and CACHED not in first.notes
    assert first.report.flops == second.report.flops and first.report.encoded == second.report.encoded


def test_other_read_options_are_another_entry_of_the_cache(tiny_model: EchoingPixels, read: list[str]) -> None:
    tokens = [tiny_model.ask(DEMO, QUESTION, fps=fps).report.tokens.video.before for fps in (2, 1, 2)]
    assert len(read) == 2 and tokens[0] == tokens[2] > tokens[1]


def test_a_named_cache_folder_is_used_and_none_reads_every_time(
    tiny_model: EchoingPixels, read: list[str], tmp_path: Path
) -> None:
    for cache in (tmp_path, str(tmp_path), FeatureCache(tmp_path)):
        clip = tiny_model.encode(DEMO, cache=cache)
        clip.ask(QUESTION)
        assert clip.cached == (cache is not tmp_path)
    assert len(read) == FeatureCache(tmp_path).clips() == 1
    answers = [tiny_model.ask(DEMO, QUESTION, cache=cache) for cache in (None, None, tmp_path)]
    assert len(read) == 3 and len({answer.token_ids for answer in answers}) == 1


def test_a_model_without_a_mark_of_its_encoders_uses_no_cache(
    model: EchoingPixels, read: list[str], film: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        model.encode(film, cache=tmp_path).ask(QUESTION, generate=SHORT)
    assert len(read) == 2 and not list(tmp_path.iterdir())


CALLS: dict[str, tuple[Callable[[EchoingPixels], Any], tuple[type, ...]]] = {
    "model.ask": (
        lambda model: model.ask(tinymodel.clip(), QUESTION, kept=0.1),
        (MediaOptions, AskOptions, GenerateOptions),
    ),
    "clip.ask": (
        lambda model: model.encode(tinymodel.clip()).ask(QUESTION, kept=0.1),
        (AskOptions, GenerateOptions),
    ),
    "model.answer": (
        lambda model: model.answer([(model.encode(tinymodel.clip()), QUESTION)], kept=0.1),
        (AskOptions, GenerateOptions),
    ),
    "model.encode of a file": (lambda model: model.encode(DEMO, kept=0.1), (MediaOptions,)),
    "model.encode of a clip": (lambda model: model.encode(tinymodel.clip(), kept=0.1), (MediaOptions,)),
    "load": (lambda model: load("tiny", kept=0.1), (LoadOptions,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_unknown_option_is_an_error_that_lists_the_known_ones(name: str, model: EchoingPixels) -> None:
    call, groups = CALLS[name]
    with pytest.raises(OptionError, match=r"Unknown option 'kept'\.") as error:
        call(model)
    known = [field.name for group in groups for field in fields(group)]
    assert error.value.hint == f"Known options: {', '.join(known)}."


def test_a_read_option_of_a_clip_that_is_already_read_is_an_error(model: EchoingPixels) -> None:
    for clip in (tinymodel.clip(), tinymodel.clip().pieces(), model.encode(tinymodel.clip())):
        with pytest.raises(OptionError, match="fps applies to a file"):
            model.ask(clip, QUESTION, fps=1)


def test_read_options_of_a_clip_that_is_already_read_are_an_error(model: EchoingPixels) -> None:
    with pytest.raises(OptionError, match="options applies to a file"):
        model.encode(tinymodel.clip(), MediaOptions(fps=1))


def test_a_stream_takes_no_option_of_the_selection(model: EchoingPixels) -> None:
    stream = tinymodel.asked(model, tinymodel.clip(), QUESTION)
    with pytest.raises(OptionError, match=r"Unknown option 'keep'\."):
        model.generate(stream, keep=0.1)
    assert len(model.generate(stream, max_new_tokens=2).token_ids) <= 2


def test_no_questions_have_no_answers(model: EchoingPixels) -> None:
    assert model.answer([]) == [] == list(model.stream([]))


def test_options_of_every_group_are_keywords_of_ask(tiny_model: EchoingPixels) -> None:
    asked = tiny_model.ask(DEMO, QUESTION, fps=1, audio=False, reducer="uniform", keep=0.5, max_new_tokens=2)
    clip = tiny_model.encode(DEMO, MediaOptions(fps=1, audio=False))
    staged = clip.ask(QUESTION, AskOptions("uniform", 0.5, GenerateOptions(max_new_tokens=2)))
    assert same(asked, staged) and asked.options == staged.options
    assert asked.report.tokens.audio.before == 0 and len(asked.token_ids) <= 2
    assert same(asked, clip.ask(QUESTION, AskOptions("uniform"), keep=0.5, max_new_tokens=2))


def test_cs2_without_sieve_weights_names_the_other_reducers() -> None:
    with pytest.raises(ModelError, match="no sieve weights") as error:
        EchoingPixels(tinymodel.backbone()).ask(tinymodel.clip(), QUESTION, reducer="cs2")
    assert all(name in error.value.hint for name in ("--sieve", "full", "uniform", "random"))


def test_the_default_reducer_depends_on_the_sieve_unless_another_is_asked_for(
    model: EchoingPixels,
) -> None:
    bare, clip = EchoingPixels(model.backbone), tinymodel.clip()
    for one, name in ((model, SIEVE_DEFAULT), (bare, UNSIEVED)):
        stream = tinymodel.asked(one, clip, QUESTION)
        wanted = one.select(stream, name, 0.3)
        assert torch.equal(one.select(stream, keep=0.3).keep, wanted.keep)
        answer = one.ask(clip, QUESTION, generate=SHORT)
        assert answer.kept_times == one.ask(clip, QUESTION, reducer=name, generate=SHORT).kept_times
        assert AskOptions().resolved(one.sieve is not None) == AskOptions(name)
    assert AskOptions("uniform").resolved(False) == AskOptions("uniform")


@pytest.mark.parametrize("options", [{"reducer": "best"}, {"keep": 0.0}, {"keep": 1.01}])
def test_options_are_checked_when_they_are_made(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        AskOptions(**options)


def written(size: int) -> mmap.mmap:
    """`size` bytes of memory fresh from the system: the allocator may have some that other tests left."""
    block = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        block[page] = 1
    return block


def test_the_peak_is_of_memory_after_the_reset() -> None:
    device = torch.device("cpu")
    written(240_000_000).close()
    high = peak_memory(device)
    reset_peak(device)
    low = peak_memory(device)
    assert high - low > 150e6, "needs Linux's /proc/self/clear_refs"
    block = written(120_000_000)
    assert 100e6 < peak_memory(device) - low < 200e6
    block.close()


def test_flops_of_a_layer_count_every_multiply_add() -> None:
    shape, n = tinymodel.backbone().shape, 10
    layer = tinymodel.backbone().text.layers[0]
    weights = sum(p.numel() for name, p in layer.named_parameters() if p.ndim == 2)
    attention = 4 * shape.heads * shape.head_size * n * (n + 1) / 2
    assert layer_flops(shape, n, causal=True) == 2 * n * weights + attention
    steps = sum(layer_flops(shape, 1, causal=True, past=past) for past in range(n))
    assert layer_flops(shape, n, causal=True) == pytest.approx(steps)
