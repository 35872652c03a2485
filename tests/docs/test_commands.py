"""docs/commands.md says what `ep` does: every command and every option, as they are now."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer

from tests.docs import commands


def test_the_page_is_what_the_commands_say_now() -> None:
    written = commands.PAGE.read_text(encoding="utf-8")
    assert written == commands.page(), f"docs/commands.md is out of date: run `{commands.WRITE}`"


def test_the_page_has_every_command_and_option() -> None:
    group: Any = commands.get_command(commands.app)
    sections = commands.page().split("\n## ")
    for name, command in group.commands.items():
        (section,) = (text for text in sections if text.startswith(f"ep {name}\n"))
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            assert all(word in section for word in names), (name, parameter.name)


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    page = commands.page()
    for name, value in (("COLUMNS", "40"), ("TERMINAL_WIDTH", "40"), ("FORCE_COLOR", "1"), ("LANG", "de_DE")):
        monkeypatch.setenv(name, value)
    assert commands.page() == page and "\x1b" not in page
    assert max(map(len, page.splitlines())) <= 120


def test_a_command_added_later_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    def sing(
        songs: Annotated[list[str], typer.Argument(help="What to sing.")],
        loud: Annotated[bool, typer.Option("--loud", help="For all to hear.")] = False,
        pitch: Annotated[float, typer.Option("--pitch", help="In Hz.")] = 440.0,
        an_option_with_a_long_name: Annotated[str | None, typer.Option(help="Rarely needed.")] = None,
    ) -> None:
        """Sing songs."""

    @app.callback()
    def ep() -> None:
        """Do things."""

    monkeypatch.setattr(commands, "app", app)
    said = commands.page()
    for line in (
        "ep COMMAND",
        "  sing                    Sing songs.",
        "ep sing [OPTIONS] SONGS...",
        "  SONGS                   What to sing.",
        "  --loud                  For all to hear.",
        "  --pitch VALUE           In Hz. [default: 440.0]",
        "  --an-option-with-a-long-name VALUE",
        "                          Rarely needed.",
    ):
        assert f"\n{line}\n" in said, line
