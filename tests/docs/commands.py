"""The help of every command as one page: `python -m tests.docs.commands --write` writes docs/commands.md.

The page is made from the parser's parameters, at one width and without colours, so it is the same on every machine.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from epcli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
WRITE = "python -m tests.docs.commands --write"
WIDTH, COLUMN = 100, 26  # characters of a line, and before an option's description
HEAD = f"""# Commands

The output of `ep COMMAND --help`, written by `{WRITE}`. Answers and data go to stdout,
everything else to stderr. Exit codes: 0 done, 1 an error with a message, 2 wrong usage,
3 `ep batch` or `ep evaluate` finished but some rows failed, 130 interrupted.
"""


def page() -> str:
    """The whole page."""
    group: Any = get_command(app)
    return "\n".join([HEAD, *(section(name, command) for name, command in [("", group), *group.commands.items()])])


def section(name: str, command: Any) -> str:
    """One command's heading and help."""
    title = f"ep {name}".strip()
    shown = [parameter for parameter in command.params if not parameter.hidden]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    words = [title, *(["[OPTIONS]"] if options else []), *(usage(one) for one in arguments)]
    subcommands = getattr(command, "commands", {})
    lines = [
        " ".join([*words, *(["COMMAND"] if subcommands else [])]),
        "",
        *inspect.cleandoc(command.help).splitlines(),
    ]
    lines += block("Arguments", [(one.name.upper(), one.help or "") for one in arguments])
    for panel in dict.fromkeys(one.rich_help_panel or "Options" for one in options):
        mine = [one for one in options if (one.rich_help_panel or "Options") == panel]
        lines += block(panel, [(label(one), meaning(one)) for one in mine])
    lines += block(
        "Commands", [(each, inspect.cleandoc(one.help).splitlines()[0]) for each, one in subcommands.items()]
    )
    return f"## {title}\n\n```\n" + "\n".join(lines) + "\n```\n"


def usage(argument: Any) -> str:
    """An argument as the first line shows it."""
    word = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def label(option: Any) -> str:
    """An option's names and its value."""
    value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    return ", ".join([*option.opts, *option.secondary_opts]) + value


def meaning(option: Any) -> str:
    """An option's description and its default."""
    default = "" if option.is_flag or option.default is None else f"[default: {option.default}]"
    return " ".join(part for part in (option.help, default, "[required]" if option.required else "") if part)


def block(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    """A heading over two columns; nothing without rows."""
    if rows:
        yield from ("", f"{title}:")
    for name, text in rows:
        first = f"  {name}".ljust(COLUMN)
        if first[-1] != " ":  # too long to share its line
            yield first
            first = ""
        indents = {"initial_indent": first.ljust(COLUMN), "subsequent_indent": " " * COLUMN}
        yield from textwrap.wrap(text, WIDTH, break_on_hyphens=False, **indents)


def main(arguments: list[str]) -> None:
    """Print the page, or write it."""
    if arguments == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not arguments:
        print(page(), end="")
    else:
        sys.exit(f"usage: {WRITE}")


if __name__ == "__main__":
    main(sys.argv[1:])
