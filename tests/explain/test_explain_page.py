"""The page of `ep explain` in a real browser: it loads from disk, shows the kept tokens, and loads nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from echoingpixels.explain.explanation import Explanation
from echoingpixels.explain.target import write
from echoingpixels.media.clip import Clip
from tests.support import browser as browsers
from tests.support import clips, tinymodel
from tests.support.browser import By, find, press, seek, shown_cells, shown_sound, until
from tests.support.explained import audio_only, explained, kept_cells, kept_sound, still


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.running() as one:
        yield one


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Six grey seconds with a beep: the page alone dims it."""
    noise = tinymodel.clip(6.0)
    beep = clips.beep(6.0, 2.0, rate=16_000)[0] + np.random.default_rng(0).normal(0, 0.01, 96_000).astype(np.float32)
    return replace(noise, audio=beep)


@pytest.fixture(scope="module")
def made(clip: Clip) -> Explanation:
    grey = replace(clip, frames=np.full((len(clip.frames), 240, 360, 3), 200, np.uint8))
    return explained(clip, shown=grey)


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Callable[..., Any]:
    """Writes an explanation and opens it from disk."""

    def open_(explanation: Explanation, width: int = 1280, dark: bool = False) -> Any:
        write(explanation, tmp_path / "report.html")
        browsers.look_like(browser, width, dark)
        browser.get((tmp_path / "report.html").as_uri())
        return browser

    yield open_
    assert browser.get_log("browser") == [], "the console is empty"


def test_it_opens_with_the_question_the_answer_and_the_report(opened: Callable[..., Any], made: Explanation) -> None:
    page, asked = opened(made), made.choices[made.asked]
    assert find(page, "#question").text == made.question
    assert find(page, "#answer").get_property("textContent") == asked.answer.text
    assert find(page, "#belief").text == made.belief
    tokens = asked.answer.report.tokens
    numbers = find(page, "#numbers").text
    assert f"{tokens.video.before} → {tokens.video.after}" in numbers
    assert f"{tokens.audio.before} → {tokens.audio.after}" in numbers
    assert f"{asked.answer.report.speedup.estimated:.2f} ×" in numbers
    assert len(page.find_elements(By, "#rows tr")) == len(made.choices)


@pytest.mark.parametrize("second", [0.0, 2.6, 5.5])
def test_the_overlay_is_the_selection_at_each_moment(
    opened: Callable[..., Any], made: Explanation, second: float
) -> None:
    page = opened(made)
    for _ in range(3):  # the ratio asked for, and the next two larger ones
        seek(page, second)
        choice = made.choices[int(find(page, "#keep").get_property("value"))]
        assert shown_cells(page) == kept_cells(made, choice, second)
        assert shown_sound(page) == kept_sound(made, choice)
        press(page, "\ue014", on="#keep")  # right


def test_what_is_dropped_is_seen_to_be_darker_and_scores_to_be_coloured(
    opened: Callable[..., Any], made: Explanation
) -> None:
    page = opened(made)
    second = next(time for time in made.span.times if len(kept_cells(made, made.choices[made.asked], time)) > 0)
    seek(page, second)

    def centres() -> dict[tuple[int, int], Any]:
        pixels = np.asarray(Image.open(io.BytesIO(find(page, "#screen").screenshot_as_png)).convert("RGB"))
        high, wide = pixels.shape[0] / made.span.rows, pixels.shape[1] / made.span.columns
        grid = ((row, column) for row in range(made.span.rows) for column in range(made.span.columns))
        return {(r, c): pixels[int((r + 0.5) * high), int((c + 0.5) * wide)].tolist() for r, c in grid}

    until(page, lambda _: max(max(colour) for colour in centres().values()) > 150)  # the frame is decoded
    kept = kept_cells(made, made.choices[made.asked], second)
    for cell, colour in centres().items():
        assert (min(colour) > 180) == (cell in kept) and (max(colour) < 100) == (cell not in kept)
    find(page, "[value=heat]").click()
    assert len({tuple(colour) for colour in centres().values()}) > 1
    find(page, "[value=none]").click()
    assert {min(colour) > 180 for colour in centres().values()} == {True}


def test_the_slider_changes_the_answer_and_what_is_shown(opened: Callable[..., Any], made: Explanation) -> None:
    page = opened(made)
    find(page, "#keep").send_keys("\ue010")  # end
    answers, sounds = [], []
    for choice in reversed(made.choices):
        answers.append(find(page, "#answer").get_property("textContent"))
        sounds.append(shown_sound(page))
        assert answers[-1] == choice.answer.text and sounds[-1] == kept_sound(made, choice)
        current = page.find_elements(By, "#rows tr[aria-current=true]")
        assert len(current) == 1 and f"{choice.answer.report.tokens.audio.after}" in current[0].text
        assert f"{len(choice.kept)} of {len(made.tokens)}" in find(page, "#keep").get_attribute("aria-valuetext")
        press(page, "\ue012", on="#keep")  # left
    assert len(set(answers)) > 1 and len(sounds[0]) > len(sounds[-1])
    assert find(page, "#answer").get_attribute("aria-live") == "polite"


def test_evidence_is_marked_on_the_time_line_and_a_click_seeks_to_it(
    opened: Callable[..., Any], made: Explanation
) -> None:
    page, evidence = opened(made), made.choices[made.asked].answer.evidence
    assert find(page, "#evidence").text == str(evidence)
    marks = page.find_elements(By, "#moments button")
    assert len(marks) == len(evidence.moments) > 0
    whole = find(page, "#moments").rect
    for mark, moment in zip(marks, evidence.moments, strict=True):
        left = (mark.rect["x"] - whole["x"]) / whole["width"]
        assert left == pytest.approx(moment.start / made.clip.duration, abs=0.01)
        mark.send_keys("\ue007")  # enter
        assert float(find(page, "#scrub").get_property("value")) == pytest.approx(moment.start, abs=0.01)


def test_keys_play_stop_and_step(opened: Callable[..., Any], made: Explanation) -> None:
    page = opened(made)
    press(page, "\ue014", "\ue014", "\ue012")
    assert find(page, "#caption").text.startswith("Frame 2 of 12, 0.5 s")
    press(page, " ")
    assert find(page, "#play").text == "Pause"
    until(page, lambda _: page.execute_script("return document.getElementById('sound').currentTime") > 0.7)
    press(page, " ")
    assert find(page, "#play").text == "Play"
    clock = float(find(page, "#clock").text.split()[0])
    audio_time = page.execute_script("return document.getElementById('sound').currentTime")
    assert clock == pytest.approx(audio_time, abs=0.3) and clock > 0.6
    frame = int(find(page, "#caption").text.split()[1])
    assert made.clip.times[frame - 1] <= audio_time + 0.1


def test_the_clip_stops_at_its_end(opened: Callable[..., Any], made: Explanation) -> None:
    page = opened(made)
    seek(page, 5.6)
    find(page, "#play").click()
    until(page, lambda _: find(page, "#play").text == "Play")
    assert find(page, "#clock").text == "6.0 s of 6.0 s"


def test_names_and_questions_are_only_text(opened: Callable[..., Any], clip: Clip) -> None:
    bad = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    source = replace(clip.source, path="<img src=x onerror=alert(1)>.mp4", notes=(bad,))
    page = opened(explained(replace(clip, source=source), bad, keeps=()))
    assert find(page, "#question").text == bad
    assert find(page, "#remarks").text == bad
    assert find(page, "#about").text.startswith("<img src=x onerror=alert(1)>.mp4 · ")
    assert page.title == f"<img src=x onerror=alert(1)>.mp4: {bad}"
    assert {image.get_attribute("id") for image in page.find_elements(By, "img")} == {"frame", "spectrogram"}
    assert len(page.find_elements(By, "script")) == 2


@pytest.mark.parametrize("kind", ["sound", "picture", "still"])
def test_what_a_clip_lacks_is_not_shown(opened: Callable[..., Any], clip: Clip, kind: str) -> None:
    variants = {"sound": audio_only(clip), "picture": replace(clip, audio=None), "still": still(clip)}
    page = opened(explained(variants[kind], form="fused"))
    visible = {name: find(page, name).is_displayed() for name in ("#picture", "#track", "#timed", "#bars")}
    assert visible == {
        "#picture": kind != "sound",
        "#track": kind == "sound",
        "#timed": kind != "still",
        "#bars": kind != "still",
    }
    assert "do not prove what the answer is based on" in find(page, "#belief").text
    if kind == "still":
        return
    press(page, "\ue014", " ")
    until(page, lambda _: float(find(page, "#clock").text.split()[0]) > 1.0)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_screen_in_the_light_and_in_the_dark(
    opened: Callable[..., Any], made: Explanation, tmp_path: Path, width: int, dark: bool
) -> None:
    page = opened(made, width, dark)
    seek(page, 2.0)
    browsers.photograph(page, tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
    assert browsers.barriers(page) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 64) == dark
    for button in page.find_elements(By, "button"):
        assert min(button.size["width"], button.size["height"]) >= 44
