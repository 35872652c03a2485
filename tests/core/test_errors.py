"""Errors as a user reads them: one line with the cause, a hint, and an exit code; never a traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from echoingpixels.checkpoints.loading import KNOWN
from echoingpixels.media import Worker
from tests.support.program import Done, Program, environment, run

QUESTION = "Which object appears first?"


@dataclass(frozen=True)
class Place:
    """The files and the model of the cases."""

    folder: Path
    film: Path
    model: str

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def model_without_sieve(self) -> Path:
        source, copy = Path(KNOWN.get(self.model, self.model)), self.folder / "bare"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("sieve"))
        return copy


@pytest.fixture
def place(tmp_path: Path, film: Path, tiny: str) -> Place:
    return Place(tmp_path, film, tiny)


@dataclass(frozen=True)
class Case:
    """Arguments after `ep ask`, the exit code, and parts of the message and of the hint."""

    arguments: Callable[[Place], tuple[object, ...]]
    code: int
    message: tuple[str, ...]
    hint: tuple[str, ...]


def on_film(*options: object) -> Callable[[Place], tuple[object, ...]]:
    return lambda place: (place.film, QUESTION, "--model", place.model, *options)


CASES = {
    "missing file": Case(lambda p: (p.folder / "gone.mp4", QUESTION), 1, ("gone.mp4", "no such file"), ("path",)),
    "folder": Case(lambda p: (p.folder, QUESTION), 1, ("folder",), ("one media file",)),
    "zero bytes": Case(lambda p: (p.file("none.mp4", b""), QUESTION), 1, ("none.mp4", "0 bytes"), ("again",)),
    "text": Case(lambda p: (p.file("note.mp4", b"to do\n" * 99), QUESTION), 1, ("note.mp4",), ("text",)),
    "noise": Case(lambda p: (p.file("a.mp4", bytes(range(256)) * 9), QUESTION), 1, ("a.mp4",), ("MP4",)),
    "unknown model": Case(lambda p: (p.film, QUESTION, "--model", "huge"), 1, ("'huge'",), tuple(KNOWN)),
    "model folder without a model": Case(
        lambda p: (p.film, QUESTION, "--model", p.folder), 1, ("could not be loaded",), ("folder",)
    ),
    "unknown reducer": Case(on_film("--reducer", "magic"), 2, ("'magic'",), ("cs2", "full", "uniform", "random")),
    "keep of nothing": Case(on_film("--keep", "0"), 2, ("keep is 0", "(0, 1]"), ("share",)),
    "keep below nothing": Case(on_film("--keep", "-0.1"), 2, ("keep is -0.1",), ("share",)),
    "keep above all": Case(on_film("--keep", "1.5"), 2, ("keep is 1.5",), ("share",)),
    "keep that is no number": Case(on_film("--keep", "nan"), 2, ("keep is nan",), ("share",)),
    "start after end": Case(on_film("--start", "2", "--end", "1"), 2, ("2 s", "1 s"), ("start below the end",)),
    "start at the end": Case(on_film("--start", "1", "--end", "1"), 2, ("not before end",), ("start",)),
    "start past the file's end": Case(on_film("--start", "1:40"), 2, ("100 s", "film.mp4", "3.0"), ("earlier",)),
    "a time that is none": Case(on_film("--end", "soon"), 2, ("'soon'",), ("1:30",)),
    "no frames a second": Case(on_film("--fps", "0"), 2, ("fps is 0",), ("positive",)),
    "no frames": Case(on_film("--max-frames", "0"), 2, ("max_frames is 0",), ("1",)),
    "too few pixels": Case(on_film("--max-pixels", "9"), 2, ("max_pixels is 9",), ("3136",)),
    "no such track": Case(on_film("--audio-track", "4"), 2, ("no audio track 4",), ("0:",)),
    "no new tokens": Case(on_film("--max-new-tokens", "0"), 2, ("max_new_tokens is 0",), ("1",)),
    "temperature below 0": Case(on_film("--temperature", "-1"), 2, ("temperature is -1",), ("greedy",)),
    "unknown quantization": Case(on_film("--quant", "int3"), 2, ("'int3'",), ("nf4", "int8", "none")),
    "unknown device": Case(on_film("--device", "abacus"), 2, ("'abacus'",), ("cuda", "cpu")),
    "empty question": Case(lambda p: (p.film, " "), 2, ("empty",), ("in quotes",)),
    "question that is no text": Case(lambda p: (p.film, "caf\udce9?"), 2, ("'caf\\udce9?'", "text"), ("UTF-8",)),
    "no sieve for cs2": Case(
        lambda p: (p.film, QUESTION, "--model", p.model_without_sieve(), "--reducer", "cs2"),
        1,
        ("bare", "no sieve weights", "cs2"),
        ("--sieve", "full", "uniform", "random"),
    ),
    "a sieve that is none": Case(on_film("--sieve", "nowhere"), 1, ("nowhere",), ("sieve.json", "sieve.safetensors")),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mistake_is_one_line_a_hint_and_an_exit_code(name: str, place: Place, ep: Program) -> None:
    case = CASES[name]
    check(ep("ask", *case.arguments(place)), case)


def test_quantization_without_its_package_names_the_extra(
    place: Place, ep: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # importing it now fails
    for quant in ("nf4", "int8"):
        arguments = on_film("--quant", quant)
        case = Case(arguments, 1, (quant, "bitsandbytes"), ("pip install 'echoingpixels[quant]'",))
        check(ep("ask", *arguments(place)), case)


def test_an_unavailable_cuda_device_is_an_error(place: Place, ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = on_film("--device", "cuda")
    check(ep("ask", *arguments(place)), Case(arguments, 1, ("No CUDA device",), ("--device cpu",)))


def check(done: Done, case: Case) -> None:
    lines = done.err.splitlines()
    assert done.code == case.code, done.err
    assert done.out == ""
    assert len(lines) == 2, done.err
    assert lines[0].startswith("error: ") and lines[1].startswith("hint: ")
    for text in case.message:
        assert text in lines[0]
    for text in case.hint:
        assert text in lines[1]


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_before_the_line(before: bool, tmp_path: Path, ep: Program) -> None:
    words: list[object] = ["ask", tmp_path / "gone.mp4", QUESTION]
    done = ep(*(["--debug", *words] if before else [*words, "--debug"]))
    assert done.code == 1
    assert done.err.startswith("Traceback (most recent call last)")
    assert "MediaError" in done.err
    assert done.err.splitlines()[-2].startswith("error: ")


def test_debug_after_the_dashes_is_part_of_the_question(film: Path, tiny: str, ep: Program) -> None:
    done = ep("ask", "--model", tiny, "--dry-run", "--json", "--", film, "--debug")
    assert done.code == 0
    assert '"question": "--debug"' in done.out


def test_an_internal_error_is_one_line_and_code_1(film: Path, ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Worker, path: Path) -> None:
        raise ZeroDivisionError(f"{path.name}\nis to blame")

    monkeypatch.setattr(Worker, "check", broken)
    done = ep("ask", film, QUESTION)
    error, hint = done.err.splitlines()
    assert (done.code, error) == (1, "error: internal error: ZeroDivisionError: film.mp4 is to blame")
    assert "--debug" in hint
    assert "Traceback" in ep("--debug", "ask", film, QUESTION).err


def test_an_interrupt_is_exit_code_130(film: Path, ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Worker, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "check", interrupted)
    done = ep("ask", film, QUESTION)
    assert done.code == 130
    assert "Traceback" not in done.err


def test_a_real_run_prints_the_same(tmp_path: Path) -> None:
    done = run("ask", tmp_path / "gone.mp4", QUESTION)
    assert done.code == 1
    assert done.err.startswith("error: ") and "gone.mp4" in done.err and "Traceback" not in done.err


NOISY = """
import logging, warnings
from echoingpixels.media import Worker
from epcli.main import main

def check(worker, path):
    warnings.simplefilter("default")
    warnings.warn("this goes away in 6.0", FutureWarning)
    logging.getLogger("transformers").addHandler(logging.StreamHandler())
    logging.getLogger("transformers.models").warning("weights are tied")
    logging.getLogger("av.container").error("timestamps jump")

Worker.check = check
main()
"""


@pytest.mark.parametrize("debug", [False, True])
def test_other_libraries_warnings_are_shown_with_debug_alone(debug: bool, film: Path) -> None:
    arguments = [*(["--debug"] if debug else []), "ask", str(film), QUESTION, "--max-new-tokens", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", NOISY, *arguments], capture_output=True, text=True, env=environment(), check=True
    )
    if debug:
        for text in ("FutureWarning: this goes away in 6.0", "weights are tied", "timestamps jump"):
            assert text in done.stderr
    else:
        assert done.stderr == ""
