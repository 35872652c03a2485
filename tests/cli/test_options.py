"""Groups of options: every command that answers has all of them, and they have one meaning everywhere."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from echoingpixels.errors import OptionError
from echoingpixels.media import Worker
from echoingpixels.options import MediaOptions
from epcli import options
from epcli.grouped import grouped
from epcli.main import app
from tests.support.program import Program

QUESTION = "Which object appears first?"
SHORT = ("--device", "cpu", "--max-new-tokens", "2")
GROUPS = (options.ModelGroup, options.AnswerGroup, options.ChoiceGroup, options.MediaGroup, options.OutputGroup)


def parameters(name: str) -> dict[str, Any]:
    """A command's parameters by name."""
    command: Any = get_command(app)
    return {one.name: one for one in command.commands[name].params}


@pytest.mark.parametrize("name", ["ask", "batch", "explain", "evaluate", "profile"])
def test_a_command_that_answers_has_every_option_of_the_groups(name: str) -> None:
    here, there = parameters(name), parameters("ask")
    for group in GROUPS:
        for field in (field.name for field in fields(group)):
            assert here[field].opts == there[field].opts, field


def test_commands_that_show_answers_can_find_evidence_and_those_that_count_them_do_not() -> None:
    names = ("ask", "batch", "explain", "evaluate", "profile")
    assert ["evidence" in parameters(name) for name in names] == [True] * 3 + [False] * 2


def test_the_short_forms_are_the_same_everywhere() -> None:
    command: Any = get_command(app)
    short = {"-m": "model", "-q": "quant", "-r": "reducer", "-k": "keep", "-o": "out"}
    found: set[str] = set()
    for one in command.commands.values():
        for parameter in one.params:
            for letter in (name for name in parameter.opts if len(name) == 2):
                assert short[letter] == parameter.name
                found.add(letter)
    assert found == set(short)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """A group."""

    red: Annotated[int, typer.Option("--red", help="Share of red.")] = 1
    name: Annotated[str, typer.Option("--name", help="Its name.")] = "?"


@dataclass(frozen=True, kw_only=True)
class Dark(Colour):
    """The same group with another default."""

    red: Annotated[int, typer.Option("--red", help="A low share of red.")] = 0


def test_a_group_is_one_object_for_the_function_and_single_options_for_the_parser() -> None:
    @grouped
    def paint(wall: str, colour: Dark, coats: int = 2) -> Any:
        return wall, colour, coats

    signature = inspect.signature(paint)
    assert list(signature.parameters) == ["wall", "red", "name", "coats"]
    assert signature.parameters["red"].default == 0 and signature.parameters["name"].default == "?"
    assert signature.parameters["red"].annotation.__metadata__[0].help == "A low share of red."
    assert paint(wall="north", red=3, name="x", coats=1) == ("north", Dark(red=3, name="x"), 1)


def test_reuse_is_a_threshold_off_or_auto() -> None:
    read = {reuse: options.ModelGroup(reuse=reuse).load_options().reuse for reuse in ("auto", "off", "0.1", "0")}
    assert read == {"auto": "auto", "off": None, "0.1": 0.1, "0": 0.0}
    for wrong in ("plain", "inf", "-0.1", ""):
        with pytest.raises(OptionError) as error:
            options.ModelGroup(reuse=wrong).load_options()
        assert "off or auto" in error.value.hint


@pytest.mark.parametrize("name", ["ask", "evaluate"])
@pytest.mark.parametrize(
    ("keep", "message"), [("auto", "--keep has 'auto', which is not a number."), ("2", "keep is 2, outside (0, 1].")]
)
def test_a_keep_that_is_no_ratio_is_one_line(name: str, keep: str, message: str, film: Path, ep: Program) -> None:
    done = ep(name, film, *([QUESTION] if name == "ask" else []), "--keep", keep)
    assert done.code == 2 and message in done.err.splitlines()[0]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float | None, float | None]]:
    """The parts of clips that are read."""
    stream: Callable[..., Any] = Worker.stream
    read: list[tuple[float | None, float | None]] = []

    def spy(worker: Worker, path: Path, media: MediaOptions, **more: Any) -> Any:
        read.append((media.start, media.end))
        return stream(worker, path, media, **more)

    monkeypatch.setattr(Worker, "stream", spy)
    return read


@pytest.mark.parametrize("name", ["evaluate", "batch"])
def test_start_and_end_apply_to_rows_without_their_own(
    name: str, film: Path, tmp_path: Path, ep: Program, spans: list[tuple[float | None, float | None]]
) -> None:
    about = {"media": str(film), "question": QUESTION, "answer": "cat"}
    rows = [{**about, "id": "a", "start": 1, "end": 2}, {**about, "id": "b"}, {**about, "id": "c", "end": 2}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--keep", "0.5") if name == "evaluate" else ("--out", tmp_path / "out.jsonl")
    done = ep(name, data, *more, *SHORT, "--no-cache", "--start", "0.5", "--end", "0:02.5")
    assert done.code == 0, done.err
    assert spans == [(1, 2), (0.5, 2.5), (0.5, 2)]


def test_explain_prints_json_and_uses_the_feature_cache(
    film: Path, tmp_path: Path, ep: Program, spans: list[tuple[float | None, float | None]]
) -> None:
    def explained(name: str) -> Any:
        done = ep("explain", film, QUESTION, *SHORT, "-k", "0.3", "-o", tmp_path / name, "--json")
        assert (done.code, done.err) == (0, "keep ratios 1 of 1\n")
        return json.loads(done.out)

    first, second = explained("a.png"), explained("b.png")
    assert len(spans) == 2 + 1, "frames to show are read each time, features only once"
    assert first["runs"] == second["runs"]
    keys = ["media", "out", "bytes", "question", "model", "form", "runs", "belief", "notes"]
    assert list(first) == keys and first["bytes"] == (tmp_path / "a.png").stat().st_size
    (run,) = first["runs"]
    assert (run["reducer"], run["keep"]) == ("cs2-maxmin", 0.3) and run["tokens"]["kept_ratio"] == pytest.approx(
        0.3, abs=0.02
    )


@pytest.mark.parametrize("name", ["ask", "batch", "explain", "evaluate"])
def test_answers_can_be_sampled(name: str, film: Path, tmp_path: Path, ep: Program) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"media": str(film), "question": QUESTION, "answer": "cat"}) + "\n")
    arguments: dict[str, tuple[object, ...]] = {
        "ask": (film, QUESTION),
        "batch": (data, "-o", tmp_path / "out.jsonl"),
        "explain": (film, QUESTION, "-o", tmp_path / "out.png"),
        "evaluate": (data, "-k", "0.5"),
    }
    assert ep(name, *arguments[name], *SHORT, "--temperature", "0.7").code == 0
