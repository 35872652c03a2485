"""The page at `/` in a real browser: from a clip to the answer, its kept tokens and evidence; nothing else loads."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.conversation import Conversation
from echoingpixels.errors import OutOfMemoryError
from echoingpixels.explain.explanation import Explanation, explain
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions
from echoingpixels.serving.pages import PATHS, POLICY
from tests.support import browser as browsers
from tests.support import tinymodel
from tests.support.browser import By, find, seek, shown_cells, shown_sound, until
from tests.support.clips import beep, numbered
from tests.support.explained import kept_cells, kept_sound
from tests.support.served import ASK, KEY, Live, Slow, served, waited

DEMO = ASSETS / "demo.mp4"
QUESTION = "Who rings the bell?"
EVIL = "<img src=x onerror=alert(1)>"
ENTER, TAB, LEFT, RIGHT = "\ue007", "\ue004", "\ue012", "\ue014"
Opened = Callable[..., Any]


class Moody(Slow):
    """The random model, which fails, answers slowly or with markup where the question says so."""

    def __init__(self) -> None:
        super().__init__(tinymodel.model(), 0.0)

    def stream(self, prompts: Any, options: Any, **more: Any) -> Iterator[Any]:
        question = prompts[0].question
        if "fail" in question:
            raise OutOfMemoryError("Memory ran out.", "Use less of it.")
        self._seconds = 0.5 if "slowly" in question else 0.0
        if EVIL in question:
            chunks = self._model.stream(prompts, options, **more)
            yield from (replace(one, text=EVIL * bool(one.text)) for one in chunks)
        else:
            yield from super().stream(prompts, options, **more)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.running() as one:
        yield one


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with served(tmp_path_factory.mktemp("server"), Moody) as running:
        yield running


@pytest.fixture
def opened(browser: Any, live: Live) -> Iterator[Opened]:
    """Opens the page of a server as in a new browser."""
    urls = []

    def open_(url: str = live.url, width: int = 1280, dark: bool = False) -> Any:
        urls.append(url)
        browsers.look_like(browser, width, dark)
        browser.get(f"{url}/health")
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        browser.get(url)
        until(browser, lambda page: find(page, "#about").text == "random" or find(page, "#entry").is_displayed())
        return browser

    yield open_
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded and all(name.startswith(f"{urls[-1]}/") for name in loaded), loaded
    said = [one["message"] for one in browser.get_log("browser")]
    assert [one for one in said if "Failed to load resource" not in one] == [], "the console is empty"


def bring(page: Any, path: Path) -> None:
    """Choose a clip, and wait until it is on the page."""
    find(page, "#file").send_keys(str(path))
    until(page, lambda _: find(page, "#name").text == path.name and not find(page, "#work").is_displayed())
    assert find(page, "#talk").is_displayed() and find(page, "#error").text == ""


def ask(page: Any, question: str = QUESTION) -> Any:
    """The element of the answer to a question."""
    find(page, "#question").send_keys(question + ENTER)
    return answered(page)


def answered(page: Any) -> Any:
    """The latest answer, when it is complete."""
    until(page, lambda _: find(page, "#send").is_displayed())
    assert find(page, "#error").text == ""
    return page.find_elements(By, ".answer")[-1]


def words(answer: Any) -> str:
    """The text of an answer."""
    text: str = answer.find_element(By, ".text").get_property("textContent")
    return text


def explained(path: Path, keep: float, question: str = QUESTION) -> Explanation:
    """The library's own answer, with its selection."""
    encoded = tinymodel.model().encode(path)
    return explain(encoded, read_clip(path), question, replace(ASK, keep=keep), ())


def check_overlay(page: Any, made: Explanation) -> None:
    """The kept tokens on the clip are those that the library selected, at every step and in the sound."""
    (choice,) = made.choices
    for second in made.span.times:
        seek(page, second)
        assert shown_cells(page) == kept_cells(made, choice, second)
    assert shown_sound(page) == kept_sound(made, choice)


def move(page: Any, *keys: str) -> None:
    """Press keys at the slider of the tokens to keep."""
    for key in keys:
        find(page, "#keep").send_keys(key)


def test_a_clip_is_answered_as_the_library_does_and_its_selection_is_on_the_clip(
    opened: Opened, shorts: list[Path]
) -> None:
    page = opened()
    bring(page, shorts[3])
    assert shown_cells(page) == set() and not find(page, "#chosen").is_displayed()
    answer, made = ask(page), explained(shorts[3], ASK.keep)
    own = made.choices[0].answer
    assert words(answer) == own.text
    tokens = own.report.tokens
    cost = answer.find_element(By, ".cost").text
    assert f"video {tokens.video.after} of {tokens.video.before}, audio {tokens.audio.after} of" in cost
    assert f"{own.report.speedup.estimated:.1f} × faster" in cost
    check_overlay(page, made)
    seconds = [moment.start for moment in own.evidence.moments]
    buttons = answer.find_elements(By, ".row button:not(.toggle)")
    assert len(buttons) == len(seconds)
    for button, second in zip(buttons, seconds, strict=True):
        button.click()
        assert float(find(page, "#scrub").get_property("value")) == pytest.approx(second, abs=0.01)


def test_the_slider_asks_again_and_each_answer_shows_its_own_tokens(opened: Opened, shorts: list[Path]) -> None:
    page = opened()
    bring(page, shorts[2])
    first = ask(page)
    assert not find(page, "#again").is_displayed() and find(page, "#share").text == "30 %"
    move(page, LEFT, LEFT)
    assert find(page, "#again").text == "Ask again, keeping 10 %"
    find(page, "#again").click()
    second = answered(page)
    few, more = explained(shorts[2], 0.1), explained(shorts[2], ASK.keep)
    assert [words(one) for one in (first, second)] == [one.choices[0].answer.text for one in (more, few)]
    check_overlay(page, few)
    first.find_element(By, ".toggle").click()
    check_overlay(page, more)
    pressed = [one.find_element(By, ".toggle").get_attribute("aria-pressed") for one in (first, second)]
    assert pressed == ["true", "false"]
    move(page, *RIGHT * 4)
    assert find(page, "#share").text == "all"
    find(page, "#again").click()
    answered(page)
    assert "full" in page.find_elements(By, ".answer dl")[-1].get_property("textContent")
    assert len(page.find_elements(By, ".turn")) == 1


def test_earlier_turns_belong_to_the_next_question_until_a_new_conversation(opened: Opened, shorts: list[Path]) -> None:
    page, talk = opened(), Conversation(tinymodel.model(), tinymodel.model().encode(shorts[1]))
    bring(page, shorts[1])
    for question in (QUESTION, "And when?"):
        assert words(ask(page, question)) == talk.ask(question, ASK).text
    assert [one.text for one in page.find_elements(By, ".question")] == [QUESTION, "And when?"]
    find(page, "#fresh").click()
    assert not page.find_elements(By, ".turn") and shown_cells(page) == set()
    assert words(ask(page, "And when?")) == explained(shorts[1], ASK.keep, "And when?").choices[0].answer.text


def test_names_questions_and_answers_are_only_text(opened: Opened, shorts: list[Path], tmp_path: Path) -> None:
    path = tmp_path / f"{EVIL}.mp4"
    shutil.copy(shorts[0], path)
    page = opened()
    bring(page, path)
    answer = ask(page, f"Who? {EVIL}")
    assert EVIL in words(answer) and find(page, ".question").text == f"Who? {EVIL}"
    assert page.title.startswith(path.name)
    find(page, "#another").click()
    assert find(page, "#clips").text == path.name
    assert {one.get_attribute("id") for one in page.find_elements(By, "img")} == {"frame", "spectrogram"}
    assert len(page.find_elements(By, "script")) == 2


def test_inline_scripts_are_refused_and_only_the_files_of_the_page_are_served(opened: Opened, live: Live) -> None:
    page, done = opened(), live.get("/")
    assert {name: done.headers[name] for name in POLICY} == POLICY and "unsafe" not in str(POLICY)
    assert done.headers["content-type"].startswith("text/html")
    page.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.owned = 1'; document.body.append(one)"
    )
    assert page.execute_script("return window.owned") is None
    assert "Content Security Policy" in page.get_log("browser")[0]["message"]
    for name in ("explain.html", "serve.html", "..%2fpages%2fserve.js", "%2fetc%2fpasswd", "clip.js/", ""):
        assert live.get(f"/page/{name}").status_code == 404


def test_a_dropped_clip_is_uploaded(opened: Opened, shorts: list[Path]) -> None:
    page = opened()
    script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "dropped.mp4"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    """
    page.execute_script(script, base64.b64encode(shorts[0].read_bytes()).decode())
    until(page, lambda _: find(page, "#name").text == "dropped.mp4")


def test_uploaded_clips_are_picked_again_and_deleted_ones_are_gone(
    opened: Opened, live: Live, shorts: list[Path]
) -> None:
    page = opened()
    for path in shorts[4:6]:
        find(page, "#another").click() if find(page, "#another").is_displayed() else None
        bring(page, path)
    page.refresh()
    until(page, lambda _: find(page, "#clips").text.splitlines() == [shorts[5].name, shorts[4].name])
    page.find_elements(By, "#clips button")[1].click()
    until(page, lambda _: find(page, "#name").text == shorts[4].name)
    gone = page.execute_script("return JSON.parse(localStorage.getItem('ep.clips'))[1].id")
    live.server.files.delete(gone)
    page.refresh()
    until(page, lambda _: find(page, "#clips").text == shorts[5].name)


def test_errors_are_one_line_and_nothing_is_lost(opened: Opened, shorts: list[Path], tmp_path: Path) -> None:
    page, broken = opened(), tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    find(page, "#file").send_keys(str(broken))
    until(page, lambda _: find(page, "#error").text)
    assert len(find(page, "#error").text.splitlines()) == 1
    assert find(page, "#error").get_attribute("role") == "alert" and find(page, "#choose").is_displayed()
    bring(page, shorts[0])
    first = ask(page)
    find(page, "#question").send_keys("Please fail" + ENTER)
    until(page, lambda _: find(page, "#error").text == "Memory ran out. Use less of it.")
    assert find(page, "#question").get_property("value") == "Please fail"
    assert [words(one) for one in page.find_elements(By, ".answer")] == [words(first)]


@pytest.mark.parametrize("kind", ["sound", "image"])
def test_sound_alone_and_a_still_image_show_their_own_tokens(opened: Opened, tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("beep.wav" if kind == "sound" else "grey.png")
    if kind == "sound":
        soundfile.write(path, beep(3.0, 1.0, rate=16_000)[0], 16_000)
    else:
        Image.fromarray(numbered(3, 96, 128)).save(path)
    page = opened()
    bring(page, path)
    answer, made = ask(page), explained(path, ASK.keep)
    assert words(answer) == made.choices[0].answer.text
    kept = made.kept(made.choices[0])
    assert shown_sound(page) == set(kept.audio) and len(shown_cells(page)) == len(kept.video) > (kind == "image") - 1
    assert find(page, "#picture").is_displayed() == (kind == "image") != find(page, "#timed").is_displayed()
    assert f"kept {'audio' if kind == 'sound' else 'image'} " in answer.find_element(By, ".cost").text


def test_reading_a_clip_is_shown_and_can_be_cancelled(
    opened: Opened, live: Live, shorts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened()
    with monkeypatch.context() as patched:
        patched.setattr(live.server.clips, "view", lambda *given: Future[Any]())
        find(page, "#file").send_keys(str(shorts[1]))
        until(page, lambda _: find(page, "#doing").text == f"Reading and encoding {shorts[1].name} …")
        assert find(page, "#doing").get_attribute("role") == "status" and not find(page, "#choose").is_displayed()
        assert browsers.barriers(page) == []
        find(page, "#cancel").click()
        until(page, lambda _: find(page, "#choose").is_displayed() and not find(page, "#work").is_displayed())
        assert find(page, "#error").text == "" and waited(lambda: live.server.engine.open == 0)
    bring(page, shorts[1])


def test_a_clip_waits_for_the_model(browser: Any, shorts: list[Path], tmp_path: Path) -> None:
    go = threading.Event()

    def load() -> EchoingPixels:
        assert go.wait(browsers.PATIENCE)
        return tinymodel.model()

    with served(tmp_path, load, ready=False) as slow:
        try:
            browser.get(slow.url)
            until(browser, lambda page: find(page, "#about").text == "random is loading …")
            find(browser, "#file").send_keys(str(shorts[0]))
            until(browser, lambda page: find(page, "#doing").text.startswith("Reading"))
        finally:
            go.set()
        until(browser, lambda page: find(page, "#name").text == shorts[0].name)
        assert find(browser, "#about").text == "random"
    browser.get_log("browser")


def test_stop_keeps_the_text_so_far_and_frees_the_server(opened: Opened, live: Live, shorts: list[Path]) -> None:
    page = opened()
    bring(page, shorts[0])
    find(page, "#question").send_keys("Tell me slowly" + ENTER)
    until(page, lambda _: find(page, "#stop").is_displayed() and words(find(page, ".answer")))
    assert find(page, "#turns").get_attribute("aria-busy") == "true"
    find(page, "#stop").click()
    answer = answered(page)
    whole = explained(shorts[0], ASK.keep, "Tell me slowly").choices[0].answer.text
    assert whole.startswith(words(answer)) and "Stopped before its end." in answer.text
    assert waited(lambda: live.server.engine.open == 0)
    assert words(ask(page, "And now?"))


def test_a_key_is_asked_for_once(opened: Opened, shorts: list[Path], tmp_path: Path) -> None:
    with served(tmp_path, tinymodel.model, keys=(KEY,)) as closed:
        assert all(closed.get(path).status_code == 200 for path in PATHS)
        assert closed.get("/page/other.js").status_code == 401
        page = opened(closed.url)
        assert not find(page, "#source").is_displayed() and find(page, "#error").text == ""
        find(page, "#key").send_keys("wrong-key" + ENTER)
        until(page, lambda _: find(page, "#error").text == "The API key is wrong. Enter another one.")
        assert browsers.barriers(page) == []
        find(page, "#key").send_keys(KEY + ENTER)
        until(page, lambda _: find(page, "#source").is_displayed() and not find(page, "#entry").is_displayed())
        bring(page, shorts[0])
        assert words(ask(page))
        page.refresh()
        until(page, lambda _: find(page, "#source").is_displayed())
        assert KEY not in page.page_source and KEY not in str(page.execute_script("return {...localStorage}"))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_screen_in_the_light_and_in_the_dark_without_barriers(
    opened: Opened, shorts: list[Path], width: int, dark: bool
) -> None:
    page = opened(width=width, dark=dark)
    assert browsers.barriers(page) == []
    bring(page, shorts[5])
    ask(page, "word " * 30 + "longword" * 20)
    find(page, "summary").click()
    move(page, LEFT)
    assert browsers.barriers(page) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 64) == dark
    for button in page.find_elements(By, "button"):
        assert not button.is_displayed() or min(button.size["width"], button.size["height"]) >= 44


def test_from_a_clip_to_its_evidence_by_keyboard_alone(
    opened: Opened, browser: Any, tmp_path: Path, tiny_model: EchoingPixels
) -> None:
    question = "Which object is visible when the bell plays?"
    with served(tmp_path, lambda: tiny_model, ask=AskOptions(keep=0.1)) as running:
        page = opened(running.url)
        reach(page, "file")
        page.switch_to.active_element.send_keys(str(DEMO))
        until(page, lambda _: page.switch_to.active_element.get_attribute("id") == "question")
        page.switch_to.active_element.send_keys(question + ENTER)
        answer, own = answered(page), tiny_model.ask(DEMO, question, keep=0.1)
        assert words(answer) == own.text == "cake"
        moment = own.evidence.moments[0]
        reach(page, str(moment))
        page.switch_to.active_element.send_keys(ENTER)
        assert float(find(page, "#scrub").get_property("value")) == pytest.approx(moment.start, abs=0.01)
        page.switch_to.active_element.send_keys(RIGHT)
        assert "Frame" in find(page, "#caption").text
        assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def reach(page: Any, wanted: str) -> None:
    """Press Tab until an element of that id or text has the focus."""
    for _ in range(60):
        one = page.switch_to.active_element
        named = one.get_attribute("id") == wanted or one.text.startswith(wanted)
        if named and one.tag_name in ("input", "button"):
            return
        one.send_keys(TAB)
    raise AssertionError(f"{wanted} cannot be reached with the Tab key")
