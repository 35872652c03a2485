"""An explanation reports the model's own selections and answers; files it is written to."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from echoingpixels.display.budget import over_time
from echoingpixels.display.pictures import jpegs, shown_size, spectrogram
from echoingpixels.display.sound import mp3
from echoingpixels.errors import DataError, ModelError, OptionError
from echoingpixels.explain import page, poster
from echoingpixels.explain.explanation import LADDER, Explanation, explain
from echoingpixels.explain.target import write
from echoingpixels.inputs.positions import AUDIO_TOKENS_PER_S, KINDS
from echoingpixels.media import read_clip
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions
from echoingpixels.reducer_names import REDUCER_NAMES, SIEVED, UNSIEVED
from tests.support import clips, tinymodel
from tests.support.explained import QUESTION, SHORT, audio_only, explained, model, still
from tests.support.program import Program

SHORT_RUN = ("--device", "cpu", "--max-new-tokens", "3")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tinymodel.clip(3.5)


@pytest.fixture(scope="module")
def one(clip: Clip) -> Explanation:
    return explained(clip)


@pytest.mark.parametrize("form", ["extractive", "fused"])
@pytest.mark.parametrize("reducer", REDUCER_NAMES)
def test_every_choice_is_the_models_own_and_every_answer_that_of_ask(clip: Clip, reducer: str, form: str) -> None:
    with_sieve = model(form)
    stream = tinymodel.asked(with_sieve, clip, QUESTION)
    pool = stream.pool[0]
    for choice in explained(clip, form=form, reducer=reducer).choices:
        setting = choice.setting
        selection = with_sieve.select(stream, setting.reducer, setting.keep)
        assert list(choice.kept) == [i for i, kept in enumerate(selection.keep[0, pool].tolist()) if kept]
        assert (choice.scores is None) == (selection.scores is None)
        if selection.scores is not None:
            assert list(choice.scores or ()) == selection.scores[0, pool].tolist()
        asked = with_sieve.ask(clip, QUESTION, reducer=setting.reducer, keep=setting.keep, generate=SHORT)
        assert (choice.answer.text, choice.answer.token_ids) == (asked.text, asked.token_ids)
        assert choice.answer.report.tokens == asked.report.tokens


def test_tokens_are_the_streams_with_their_time_cell_and_kind(clip: Clip, one: Explanation) -> None:
    stream = tinymodel.asked(model(), clip, QUESTION)
    pool = stream.pool[0]
    assert [token.kind for token in one.tokens] == [KINDS[kind] for kind in stream.kind[0, pool].tolist()]
    assert [token.time for token in one.tokens] == stream.time[0, pool].tolist()
    assert [token.cell or (-1, -1) for token in one.tokens] == [tuple(cell) for cell in stream.cell[0, pool].tolist()]


def test_the_ladder_begins_with_the_fewest_tokens_and_has_the_ratio_asked_for(clip: Clip) -> None:
    made = explained(clip, keep=0.3)
    assert [choice.setting.keep for choice in made.choices] == sorted([*LADDER, 0.3])
    assert made.choices[made.asked].setting.keep == 0.3
    assert (made.choices[-1].setting.reducer, len(made.choices[-1].kept)) == ("full", len(made.tokens))
    assert [choice.setting.keep for choice in explained(clip, reducer="full").choices] == [1.0]
    assert [choice.setting.keep for choice in explained(clip, keeps=(), keep=0.3).choices] == [0.3]


def test_choices_are_nested_if_the_reducer_ranks_tokens(clip: Clip, one: Explanation) -> None:
    assert one.nested and explained(clip, reducer="random").nested
    assert not explained(clip, reducer="uniform", keep=0.3).nested


def test_progress_counts_the_runs(clip: Clip) -> None:
    progress: list[tuple[int, int]] = []
    asked = AskOptions(generate=SHORT)
    explain(model().encode(clip), clip, QUESTION, asked, (0.5, 1.0), lambda *done: progress.append(done))
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_only_the_fused_form_is_no_proof(clip: Clip, one: Explanation) -> None:
    assert (one.form, explained(clip, form="fused", keeps=()).form) == ("extractive", "fused")
    assert "is based on them" in one.belief
    assert "do not prove" in explained(clip, form="fused", keeps=(), reducer="cs2").belief
    for reducer in set(REDUCER_NAMES) - SIEVED:
        other = explained(clip, form="fused", keeps=(), reducer=reducer)
        assert other.form is None and f"that {reducer} kept them does not mean that they matter" in other.belief


def test_without_a_sieve_cs2_is_refused_and_uniform_explained(clip: Clip) -> None:
    bare = EchoingPixels(tinymodel.backbone())
    with pytest.raises(ModelError, match="no sieve weights"):
        explain(bare.encode(clip), clip, QUESTION, AskOptions("cs2"))
    assert explain(bare.encode(clip), clip, QUESTION, AskOptions(generate=SHORT), ()).reducer == UNSIEVED
    assert explain(bare.encode(clip), clip, QUESTION, AskOptions("uniform", generate=SHORT), ()).form is None


def test_the_budget_over_time_has_every_kept_token_in_its_second(one: Explanation) -> None:
    for choice in one.choices:
        budget = over_time(one.clip.duration, one.span, one.kept(choice))
        tokens = [one.tokens[i] for i in choice.kept]
        assert budget.part == 1.0 and len(budget.video) == 4
        for second in range(4):
            within = [token for token in tokens if second <= token.time + 1e-4 < second + 1]
            assert budget.video[second] == sum(token.cell is not None for token in within)
            assert budget.audio[second] == sum(token.cell is None for token in within)
        assert budget.most == max(a + b for a, b in zip(budget.video, budget.audio, strict=True))


def test_the_page_counts_picture_and_sound_apart(one: Explanation) -> None:
    shown = page.page(one)
    cells = shown.clip.rows * shown.clip.columns
    for choice, stop in zip(one.choices, shown.stops, strict=True):
        kept = [one.tokens[i] for i in choice.kept]
        cells_kept = [(one.span.times[n // cells], divmod(n % cells, shown.clip.columns)) for n in stop.kept.video]
        assert cells_kept == [(token.time, token.cell) for token in kept if token.cell is not None]
        times = [n / AUDIO_TOKENS_PER_S for n in stop.kept.audio]
        assert times == pytest.approx([token.time for token in kept if token.cell is None])
        assert (stop.moments, stop.evidence) == (choice.answer.evidence.moments, str(choice.answer.evidence))
        assert (stop.answer, stop.report) == (choice.answer.text, choice.answer.report.as_dict())


def test_heat_is_the_share_of_tokens_with_lower_scores(one: Explanation) -> None:
    choice, stop = one.choices[one.asked], page.page(one).stops[one.asked]
    assert choice.scores is not None and stop.heat is not None
    video = [score for token, score in zip(one.tokens, choice.scores, strict=True) if token.cell is not None]
    lower = [sum(other < score for other in choice.scores) for score in video]
    assert list(stop.heat.video) == [100 * n // len(one.tokens) for n in lower]
    assert len(stop.heat.audio) == one.span.audio_tokens
    assert page.page(one).stops[-1].heat is None, "all tokens: no scores"


def test_the_pages_data_survives_the_trip_through_html(clip: Clip) -> None:
    nasty = "</script><!-- & {{js}} \u2028 é"
    source = replace(clip.source, path="folder/<img onerror=x>\udcff.mp4", warnings=("w",), notes=(nasty,))
    html = page.render(explained(replace(clip, source=source), nasty)).decode()
    data = html.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    read = json.loads(data)
    assert (read["question"], read["name"], read["remarks"]) == (nasty, "<img onerror=x>\udcff.mp4", ["w", nasty])
    assert "<img onerror" not in html and html.count("</script>") == 2
    assert "default-src 'none'" in html and "unsafe" not in html.split("<style>")[0]


def test_a_page_of_sixty_noisy_seconds_stays_under_ten_megabytes() -> None:
    small = tinymodel.clip(60.0)
    frames = np.random.default_rng(0).integers(0, 256, (120, 270, 480, 3), dtype=np.uint8)
    made = explained(small, shown=replace(small, frames=frames), keeps=(0.5,))
    assert len(page.render(made)) < 10_000_000


@pytest.mark.parametrize("kind", ["sound", "picture", "still", "silent"])
def test_sound_alone_a_picture_alone_a_still_and_silence_are_shown_too(clip: Clip, kind: str) -> None:
    audio = np.zeros(len(clip.audio if clip.audio is not None else ()), np.float32)
    variants = {
        "sound": audio_only(clip),
        "picture": replace(clip, audio=None),
        "still": still(clip),
        "silent": replace(clip, audio=audio),
    }
    made = explained(variants[kind], keeps=())
    shown = page.page(made)
    assert (len(shown.clip.frames) > 0, shown.clip.still) == (kind != "sound", kind == "still")
    assert (shown.clip.sound is not None) == (shown.clip.spectrogram is not None) == (kind in ("sound", "silent"))
    assert (len(shown.stops[0].budget.video) > 0) == (kind != "still")
    assert b"<!doctype html>" in page.render(made)
    assert Image.open(io.BytesIO(poster.render(made))).width == poster.WIDTH


def test_a_question_without_a_space_is_broken_to_fit_the_picture(clip: Clip) -> None:
    tall = Image.open(io.BytesIO(poster.render(explained(clip, "why" * 100, keeps=()))))
    low = Image.open(io.BytesIO(poster.render(explained(clip, "why", keeps=()))))
    assert tall.width == low.width and tall.height > low.height


def test_signs_that_the_font_of_the_picture_lacks_are_replaced() -> None:
    font = poster._font(18)
    lacking = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(chr(sign))) == lacking for sign in poster.PLAIN)
    shown, plain = (np.asarray(poster._text(text, 18, "#000000")) for text in ("1–2 × 3", "1-2 x 3"))
    assert np.array_equal(shown, plain)


def test_the_picture_marks_the_evidence_times_on_the_clips_length(one: Explanation) -> None:
    choice, inner = one.choices[one.asked], poster.INNER
    made = poster._evidence(one, choice)
    assert made is not None and choice.answer.evidence.moments
    dark = np.asarray(made.convert("L"))[-poster.TICKS - 8] < 0xE0
    expected = np.zeros(inner, bool)
    for moment in choice.answer.evidence.moments:
        left, right = (round(inner * second / one.clip.duration) for second in (moment.start, moment.end))
        expected[left:right] = True
    assert (dark == expected).all()


def test_dropped_cells_are_dimmed_and_kept_ones_framed() -> None:
    pixels = np.asarray(poster.framed(Image.new("RGB", (60, 40), "#ffffff"), 2, 3, {(0, 1), (1, 2)}))
    for row in range(2):
        for column in range(3):
            centre, edge = pixels[20 * row + 10, 20 * column + 10], pixels[20 * row, 20 * column + 10]
            kept = (row, column) in {(0, 1), (1, 2)}
            assert centre.tolist() == ([255] * 3 if kept else [round(255 * poster.DIMMED)] * 3)
            assert (edge.tolist() == [86, 180, 233]) == kept


def test_the_pages_sound_is_on_the_clips_clock(tmp_path: Path) -> None:
    beep = clips.beep(3.0, 1.0, rate=16_000)[0]
    file = tmp_path / "sound.mp3"
    file.write_bytes(mp3(beep))
    again = read_clip(file)
    assert again.audio is not None and file.stat().st_size < 5000 * 3
    assert clips.beeps(again.audio)[0] == pytest.approx(1.0, abs=0.03)


def test_the_spectrogram_shows_when_the_beep_is() -> None:
    beep = clips.beep(4.0, 1.0, rate=16_000)[0]
    found = spectrogram(replace(tinymodel.clip(4.0), audio=beep))
    assert found is not None and found[1] == 4.0
    pixels, _ = found
    loud = np.flatnonzero(pixels.max(0) > 200)
    assert pixels.shape[1] == 100
    assert (loud.min() / 25, loud.max() / 25) == pytest.approx((1.0, 1.0 + clips.BEEP), abs=0.08)
    assert spectrogram(replace(tinymodel.clip(1.0), audio=beep[:100])) is None


def test_shown_frames_keep_their_shape_and_are_never_enlarged() -> None:
    assert shown_size(1080, 1920) == (270, 480)
    assert shown_size(1920, 1080) == (480, 270)
    assert shown_size(64, 96) == (64, 96)
    assert shown_size(1, 100_000) == (1, 480)
    (picture,) = jpegs(np.zeros((1, 540, 960, 3), np.uint8))
    assert Image.open(io.BytesIO(picture)).size == (480, 270)


def test_a_bad_out_is_refused_before_anything_runs(
    ep: Program, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echoingpixels.media.check_media", None)
    monkeypatch.setattr("echoingpixels.from_pretrained.load", None)
    (tmp_path / "folder.html").mkdir()
    clip = tmp_path / "clip.png"
    clip.write_bytes(b"")
    cases = [
        (film, "report.pdf", 2, "of an unknown file type"),
        (film, "report", 2, "of an unknown file type"),
        (film, "gone/report.html", 1, "cannot be written: no such file"),
        (film, "folder.html", 1, "cannot be written: is a directory"),
        (clip, "clip.png", 2, "would overwrite"),
        (film, "clip.png", 1, "already exists"),
    ]
    for media, name, code, said in cases:
        done = ep("explain", media, QUESTION, "--out", tmp_path / name)
        assert (done.code, done.out) == (code, "") and said in done.err, done.err
        assert "hint: " in done.err
    assert not (tmp_path / "report.html").exists()
    assert ep("explain", film, QUESTION).code == 2
    assert ep("explain", film, " ", "--out", tmp_path / "a.html").code == 2


def test_the_ending_says_what_is_written_and_a_failed_write_is_explained(tmp_path: Path, one: Explanation) -> None:
    assert write(one, tmp_path / "A.PNG") == (tmp_path / "A.PNG").stat().st_size
    with pytest.raises(OptionError, match="an unknown file type"):
        write(one, tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot be written"):
        write(one, tmp_path / "gone" / "a.png")


@pytest.mark.parametrize("name", ["report.html", "map.png"])
def test_explain_writes_one_file_and_prints_its_path(
    ep: Program, film: Path, tiny: str, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    done = ep("explain", film, QUESTION, "--out", out, "--model", tiny, "--keep", "0.3", *SHORT_RUN)
    assert (done.code, done.out) == (0, f"{out}\n")
    assert "\ncs2-maxmin 0.3: " in f"\n{done.err}" and "evidence: " in done.err and "basis: " in done.err
    assert ("full 1: " in done.err) == (name == "report.html")
    start: Any = out.read_bytes()[:8]
    assert start.startswith(b"<!doctyp" if name == "report.html" else b"\x89PNG")


def test_explain_overwrites_a_file_only_by_force(ep: Program, film: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    out.write_bytes(b"mine")
    arguments = ("explain", film, QUESTION, "--out", out, "--model", tiny, "--keep", "0.3", *SHORT_RUN)
    assert ep(*arguments).code == 1 and out.read_bytes() == b"mine"
    assert ep(*arguments, "--force").code == 0 and out.read_bytes().startswith(b"\x89PNG")
