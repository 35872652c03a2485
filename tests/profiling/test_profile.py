"""Measuring settings side by side: what runs and in what order, how it is folded, and what is recommended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.datasets.score import Score
from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.errors import MediaError, ModelError, OptionError, OutOfMemoryError
from echoingpixels.generation.answer import Answer
from echoingpixels.media import read_clip, stream_clip
from echoingpixels.media.clip import Pieces
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, ProfileOptions
from echoingpixels.profiling import profile as under_test
from echoingpixels.profiling.measurements import FULL, Measured, Sample, Spread, fold
from echoingpixels.profiling.profile import choose, in_turn, profile
from echoingpixels.profiling.recommend import Recommendation, recommend
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.reducers.setting import Setting
from echoingpixels.report import Flops, MemoryUse, Report, Speedup, StageTimes, TokenCounts, Tokens
from tests.support import clips, tinymodel

SHORT = GenerateOptions(max_new_tokens=3)
CS2 = Setting("cs2", 0.2)
QUICK = ProfileOptions(keeps=(0.2,), repeat=2, warm_up=1)
FILM, OTHER = Path("film.mp4"), Path("other.mp4")


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two clips, one without sound."""
    folder = tmp_path_factory.mktemp("films")
    track = clips.Track(clips.beep(2.0, 1.0))
    made = (clips.Film(seconds=2.0, tracks=(track,)), clips.Film(seconds=1.0))
    return [clips.write(folder / f"{i}.mp4", film) for i, film in enumerate(made)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """The settings that answers were made with, in order."""
    made, real = [], EncodedClip.ask

    def spy(clip: EncodedClip, question: str, options: Any) -> Answer:
        made.append(Setting(options.reducer, options.keep))
        return real(clip, question, options)

    monkeypatch.setattr(EncodedClip, "ask", spy)
    return made


def made_up(
    text: str = "cat",
    encode: float = 1.0,
    llm: float = 1.0,
    generate: float | None = 0.5,
    said: int = 3,
    peak: int = 100,
) -> Answer:
    """An answer: `encode` s to encode, `llm` s to select and prefill, and `generate` s after its first token."""
    report = Report(
        tokens=Tokens.of(TokenCounts(30, 20, 0, 5), TokenCounts(6, 4, 0, 5)),
        time_s=StageTimes(9.0, 0.0, 0.0, encode, llm / 2, llm / 2, generate),
        memory_bytes=MemoryUse(10, peak, peak // 2),
        flops=Flops(400.0, 100.0),
        encoded=TokenCounts(30, 20),
        speedup=Speedup(4.0),
    )
    return Answer(text, (1,) * said, "stop", report, AskOptions(), {})


def folded(full: list[Answer], mine: list[Answer], of: list[Path] | None = None) -> Measured:
    """CS2 beside the full run; answers are of each clip in turn, one clip if not said."""
    films = of or [FILM]
    samples = [
        Sample(films[i % len(films)], i // len(films), setting, answer)
        for setting, answers in ((FULL, full), (CS2, mine))
        for i, answer in enumerate(answers)
    ]
    return fold([FULL, CS2], samples)[1]


# What runs, and in what order.


def test_every_setting_takes_every_place_once_in_as_many_turns() -> None:
    chosen = [Setting("cs2", keep / 10) for keep in range(1, 8)]
    orders = [in_turn(chosen, turn, len(chosen), seed=3) for turn in range(len(chosen))]
    for setting in chosen:
        assert sorted(order.index(setting) for order in orders) == list(range(len(chosen)))


def test_in_three_turns_of_many_settings_each_comes_early_midway_and_late() -> None:
    chosen = [Setting("cs2", keep / 100) for keep in range(1, 14)]
    orders = [in_turn(chosen, turn, 3, seed=0) for turn in range(3)]
    for setting in chosen:
        early, midway, late = sorted(order.index(setting) for order in orders)
        assert min(midway - early, late - midway) >= 13 // 3


def test_the_seed_decides_the_order() -> None:
    chosen = [Setting("cs2", keep / 10) for keep in range(1, 8)]
    assert in_turn(chosen, 0, 1, seed=1) == in_turn(chosen, 0, 1, seed=1) != in_turn(chosen, 0, 1, seed=2)
    assert sorted(in_turn(chosen, -5, 3, seed=1), key=lambda one: one.keep) == chosen


def test_every_round_asks_every_setting_about_every_clip(
    model: EchoingPixels, films: list[Path], asked: list[Setting]
) -> None:
    found = profile(model, films, "Who?", QUICK, generate=SHORT)
    chosen, turns = found.settings, len(films) * QUICK.repeat
    assert chosen == [FULL, *(Setting(reducer, 0.2) for reducer in ("cs2-maxmin", "uniform", "random"))]
    rounds = [in_turn(chosen, turn, turns, QUICK.seed) for turn in range(-len(films), turns)]
    assert asked == [setting for order in rounds for setting in order]
    assert len({tuple(order) for order in rounds}) > 1


def test_a_clip_is_read_and_encoded_once_a_round_for_all_settings(
    model: EchoingPixels, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encoded = [], []
    encode = EchoingPixels.encode_pieces

    def reader(path: Path, *rest: Any, **options: Any) -> Pieces:
        read.append(path)
        return stream_clip(path, *rest, **options)

    monkeypatch.setattr(EchoingPixels, "encode_pieces", lambda *a: encoded.append(a) or encode(*a))
    found = profile(model, films, "Who?", QUICK, generate=SHORT, reader=reader)
    assert read == films * 3 and len(encoded) == 6
    shared = {name: {run.time_s[name] for run in found.runs} for name in ("decode", "encode")}
    assert all(len(spreads) == 1 and None not in spreads for spreads in shared.values())
    assert under_test.SHARED in found.notes


def test_rounds_that_warm_up_do_not_count(
    model: EchoingPixels, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def answer(*_: Any) -> Answer:
        calls.append(1)
        return made_up(llm=100.0 if len(calls) <= 2 * 4 else 2.0)  # of two rounds with four settings

    monkeypatch.setattr(EncodedClip, "ask", answer)
    found = profile(model, films[:1], "Who?", replace(QUICK, warm_up=2, repeat=3))
    assert len(calls) == 5 * 4
    assert [run.time_s["llm"] for run in found.runs] == [Spread(2.5, 2.5, 2.5)] * 4
    cold = profile(model, films[:1], "Who?", replace(QUICK, warm_up=0, repeat=1))
    assert (
        "With --repeat 1 there is no spread." in cold.notes and "With --repeat 1 there is no spread." not in found.notes
    )


def test_progress_counts_answers_with_those_that_warm_up(model: EchoingPixels, films: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    profile(model, films[:1], "Who?", QUICK, generate=SHORT, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


def test_the_full_run_and_the_baselines_are_always_there(model: EchoingPixels) -> None:
    chosen = choose(model, ProfileOptions(keeps=(0.1,), reducers=("cs2",)))
    assert chosen == [FULL, *(Setting(reducer, 0.1) for reducer in ("cs2", "uniform", "random"))]
    chosen = choose(model, ProfileOptions(keeps=(1.0, 0.5), reducers=("random", "full")))
    assert chosen == [FULL, Setting("random", 0.5), Setting("uniform", 0.5)]


def test_a_model_without_a_sieve_is_measured_with_relevance_unless_cs2_was_asked_for(films: list[Path]) -> None:
    bare = EchoingPixels(tinymodel.backbone())
    found = profile(bare, films[:1], "Who?", replace(QUICK, warm_up=0, repeat=1), generate=SHORT)
    assert [setting.reducer for setting in found.settings] == ["full", UNSIEVED, "uniform", "random"]
    with pytest.raises(ModelError, match="no sieve"):
        profile(bare, films, "Who?", replace(QUICK, reducers=("cs2",)))


def test_answers_and_tokens_are_those_of_asking(model: EchoingPixels, films: list[Path]) -> None:
    found = profile(model, films[:1], "Who?", replace(QUICK, warm_up=0, repeat=1), generate=SHORT)
    clip = read_clip(films[0], frame_size=model.frame_size)
    for run in found.runs:
        answer = model.ask(clip, "Who?", reducer=run.setting.reducer, keep=run.setting.keep, generate=SHORT)
        assert [reply.text for reply in run.replies] == [answer.text]
        assert run.tokens == answer.report.tokens and run.flops == answer.report.flops
        assert run.replies[0].tokens == len(answer.token_ids)


def test_a_clip_that_cannot_be_read_is_left_out_and_told(
    model: EchoingPixels, films: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    found = profile(model, [broken, *films], "Who?", replace(QUICK, repeat=1), generate=SHORT)
    assert list(found.failed) == [broken] and "0 bytes" in found.failed[broken]
    assert found.as_dict()["clips"] == [str(film) for film in films]
    assert "1.mp4: It has no audio track." in found.notes
    with pytest.raises(MediaError, match="None of the 2 clips"):
        profile(model, [broken, tmp_path / "gone.mp4"], "Who?", QUICK)
    with pytest.raises(MediaError, match="0 bytes"):
        profile(model, [broken], "Who?", QUICK)


def test_a_clip_that_does_not_fit_fails_alone(
    model: EchoingPixels, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, quick = EncodedClip.ask, replace(QUICK, repeat=1)

    def answer(clip: EncodedClip, question: str, options: Any) -> Answer:
        if clip.source.path == str(films[1]) and options.keep < 1:
            raise OutOfMemoryError("It needs more memory than is free.", "Give a smaller --max-frames.")
        return real(clip, question, options)

    monkeypatch.setattr(EncodedClip, "ask", answer)
    found = profile(model, films, "Who?", quick, generate=SHORT)
    assert found.failed == {films[1]: "It needs more memory than is free."}
    assert [reply.clip for run in found.runs for reply in run.replies] == [films[0]] * len(found.runs)
    with pytest.raises(OutOfMemoryError):
        profile(model, films[1:], "Who?", quick, generate=SHORT)


def test_a_clip_that_breaks_midway_leaves_no_trace(model: EchoingPixels, films: list[Path]) -> None:
    count = []

    def read(path: Path, *arguments: Any, **options: Any) -> Pieces:
        count.append(path)
        if count.count(films[1]) > 2:
            raise MediaError("It is gone.")
        return stream_clip(path, *arguments, **options)

    found = profile(model, films, "Who?", QUICK, generate=SHORT, reader=read)
    assert found.failed == {films[1]: "It is gone."}
    assert [reply.clip for run in found.runs for reply in run.replies] == [films[0]] * 4


def test_peak_memory_that_cannot_be_measured_is_not_made_up(
    model: EchoingPixels, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(QUICK, repeat=1, warm_up=0)
    measured = profile(model, films[:1], "Who?", options, generate=SHORT)
    for run in measured.runs:
        peak, own = run.memory_bytes["peak"], run.memory_bytes["peak_llm"]
        assert peak and own and peak.median >= own.median > 0
    monkeypatch.setattr(under_test, "reset_peak", lambda device: False)
    unknown = profile(model, films[:1], "Who?", options, generate=SHORT)
    assert all(run.memory_bytes["peak"] is run.memory_bytes["peak_llm"] is None for run in unknown.runs)
    assert any("Peak memory was not measured" in note for note in unknown.notes)
    assert not any("Peak memory" in note for note in measured.notes)


def test_decoding_speed_of_one_token_is_not_made_up(model: EchoingPixels, films: list[Path]) -> None:
    options = replace(QUICK, repeat=1, warm_up=0)
    found = profile(model, films[:1], "Who?", options, generate=GenerateOptions(max_new_tokens=1))
    assert all(run.tokens_per_s is None and run.time_s["generate"] is None for run in found.runs)
    assert any("Decoding speed was not measured for any setting" in note for note in found.notes)


def test_options_are_checked() -> None:
    for wrong in ({"repeat": 0}, {"warm_up": -1}, {"keeps": (0.0,)}, {"reducers": ("best",)}):
        with pytest.raises(OptionError):
            ProfileOptions(**wrong)  # type: ignore[arg-type]


# How it is folded.


def test_the_median_stands_between_the_least_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)
    assert Spread.of([1.0, None]) is None and Spread.of([]) is None


def test_times_are_medians_over_repeats_of_means_over_clips() -> None:
    full = [made_up()] * 6
    mine = [made_up(llm=llm, encode=2.0) for llm in (1.0, 3.0, 10.0, 10.0, 2.0, 4.0)]
    run = folded(full, mine, of=[FILM, OTHER])
    assert run.time_s["prefill"] == Spread(1.5, 1.0, 5.0)  # (1, 3), (10, 10), (2, 4) halved
    assert run.time_s["llm"] == Spread(3.5, 2.5, 10.5)
    assert run.time_s["encode"] == Spread(2.0, 2.0, 2.0)
    assert run.time_s["total"] == Spread(5.5, 4.5, 12.5)
    assert (run.tokens.video.before, run.tokens.video.after) == (60, 12)
    assert run.flops == Flops(400.0, 100.0)


def test_speedups_are_taken_within_a_repeat_so_that_a_slower_machine_changes_none() -> None:
    full = [made_up(encode=1.0 * slow, llm=4.0 * slow, generate=1.0 * slow) for slow in (1, 7, 3)]
    mine = [made_up(encode=1.0 * slow, llm=1.5 * slow, generate=0.5 * slow) for slow in (1, 7, 3)]
    run = folded(full, mine)
    assert run.measured == Spread(2.0, 2.0, 2.0) and run.llm == Spread(2.5, 2.5, 2.5)
    assert run.time_s["total"] == Spread(9.0, 3.0, 21.0)


def test_decoding_speed_leaves_the_first_token_out() -> None:
    run = folded([made_up()] * 2, [made_up(said=5, generate=0.5), made_up(said=3, generate=0.5)], of=[FILM, OTHER])
    assert run.tokens_per_s == Spread(6.0, 6.0, 6.0)
    run = folded([made_up()], [made_up(said=1, generate=None)])
    assert run.tokens_per_s is None and run.time_s["generate"] is None


def test_memory_is_that_of_the_clip_that_needs_most() -> None:
    mine = [made_up(peak=peak) for peak in (100, 400, 300, 200)]
    run = folded([made_up()] * 4, mine, of=[FILM, OTHER])
    assert run.memory_bytes["peak"] == Spread(350, 300, 400) and run.memory_bytes["peak_llm"] == Spread(175, 150, 200)
    assert run.as_dict()["memory_bytes"] == {"weights": 10, "peak": 350, "peak_llm": 175}


def test_answers_agree_by_their_words_and_only_if_they_always_do() -> None:
    films = [FILM, OTHER, Path("third.mp4")]
    full = [made_up("The cat."), made_up("dog"), made_up("cow")] * 2
    mine = [made_up("cat"), made_up("dog"), made_up("cow"), made_up("cat"), made_up("dog"), made_up("pig")]
    run = folded(full, mine, of=films)
    assert [reply.agrees for reply in run.replies] == [True, True, False]
    assert run.agreement == pytest.approx(2 / 3)
    assert run.as_dict()["answer"] is None
    assert [one["text"] for one in run.as_dict()["answers"]] == ["cat", "dog", "cow"]


# What is recommended.


@pytest.fixture
def measured() -> Callable[..., Measured]:
    """One setting with a speedup, and whether it agrees on each clip or how many questions it answers right."""

    def make(
        setting: Setting, low: float = 1.5, agrees: tuple[bool, ...] = (True,), accuracy: float | None = None
    ) -> Measured:
        run = folded(
            [made_up()] * len(agrees), [made_up()] * len(agrees), [Path(f"{i}.mp4") for i in range(len(agrees))]
        )
        replies = tuple(replace(reply, agrees=one) for reply, one in zip(run.replies, agrees, strict=True))
        score = None if accuracy is None else Score(accuracy, (accuracy, accuracy), 50, 10)
        speedup = Spread(low + 0.25, low, low + 0.5)
        return replace(run, setting=setting, measured=speedup, llm=speedup, replies=replies, score=score)

    return make


def test_the_smallest_keep_that_agrees_and_is_faster_is_recommended(measured: Callable[..., Measured]) -> None:
    runs = [
        measured(FULL),
        measured(Setting("cs2", 0.5)),
        measured(Setting("cs2", 0.2)),
        measured(Setting("cs2", 0.1), agrees=(False,)),
        measured(Setting("uniform", 0.5)),
    ]
    assert recommend(runs) == Recommendation(
        Setting("cs2", 0.2),
        "At this and every larger keep ratio measured, cs2 gives the same answer as all tokens on the clip. Faster in "
        "every round: "
        "1.75 × end to end, 1.75 × in the LLM alone.",
    )


def test_a_hit_below_a_miss_is_luck(measured: Callable[..., Measured]) -> None:
    missed = measured(Setting("uniform", 0.2), agrees=(False, True))
    runs = [
        measured(FULL, agrees=(True, True)),
        measured(Setting("uniform", 0.05), agrees=(True, True)),
        missed,
        measured(Setting("uniform", 0.5), agrees=(True, True)),
    ]
    assert recommend(runs).setting == Setting("uniform", 0.5)
    assert "on all 2 clips" in recommend(runs).reason
    alone = recommend([runs[0], runs[1], missed])
    assert alone.setting == FULL
    assert "No setting gives" in alone.reason and "100.0 % of answers agreeing" in alone.reason


def test_of_reducers_at_one_keep_the_quickest_is_recommended(measured: Callable[..., Measured]) -> None:
    runs = [measured(FULL), measured(Setting("cs2", 0.2), 1.2), measured(Setting("random", 0.2), 1.4)]
    assert recommend(runs).setting == Setting("random", 0.2)


def test_all_tokens_are_recommended_where_nothing_is_faster_in_every_repeat(measured: Callable[..., Measured]) -> None:
    best = recommend([measured(FULL), measured(Setting("cs2", 0.5), 0.7), measured(Setting("cs2", 0.2), 0.9)])
    assert best.setting == FULL
    assert "is faster in every round; the closest is cs2 at keep 0.2: 1.15 × end to end" in best.reason


def test_all_tokens_are_recommended_where_nothing_agrees(measured: Callable[..., Measured]) -> None:
    both, one, none = (True, True), (True, False), (False, False)
    best = recommend([measured(FULL, agrees=both), measured(Setting("cs2", 0.5), agrees=one)])
    assert best.setting == FULL and "cs2 at keep 0.5: 50.0 % of answers agreeing" in best.reason
    best = recommend([measured(FULL, agrees=both), measured(Setting("cs2", 0.5), agrees=none)])
    assert best.setting == FULL and best.reason.endswith("on all 2 clips, and none is close.")
    assert recommend([measured(FULL)]).reason == "Only the run with all tokens was measured."


def test_known_answers_count_for_more_than_agreement(measured: Callable[..., Measured]) -> None:
    runs = [
        measured(FULL, accuracy=0.8),
        measured(Setting("cs2", 0.5), agrees=(False,), accuracy=0.9),
        measured(Setting("uniform", 0.5), agrees=(True,), accuracy=0.7),
    ]
    best = recommend(runs)
    assert best.setting == Setting("cs2", 0.5)
    assert "answers as many questions correctly as all tokens (80.0 % of 40)" in best.reason
    assert "uniform at keep 0.5: 70.0 % of questions right" in recommend([runs[0], runs[2]]).reason
